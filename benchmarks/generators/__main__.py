"""Run a load generator: `python -m benchmarks.generators NAME OPTIONS`; prints what it measured as a line of JSON."""

import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from benchmarks.generators import doors, idle_workers, one_by_one, statements, steady

GENERATORS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "single": doors.single,
    "rest": doors.rest_batches,
    "ndjson": doors.ndjson,
    "grpc": doors.grpc_batches,
    "sdk": doors.sdk_batches,
    "submit": statements.submit,
    "live": statements.live,
    "renew": statements.renew,
    "saturate": steady.saturate,
    "steady": steady.steady,
    "one_by_one": one_by_one.run,
    "idle_workers": idle_workers.run,
}


def main() -> None:
    """Run the generator that the command line names."""
    name, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(uvloop.run(GENERATORS[name](**options))), flush=True)


if __name__ == "__main__":
    main()
