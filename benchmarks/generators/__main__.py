"""Run a load generator: `python -m benchmarks.generators NAME OPTIONS`; prints what it measured as a line of JSON."""

import importlib
import json
import sys

import uvloop

# Module and function. Only the one that is asked for is imported: most of a short run is starting programs.
GENERATORS = {
    "single": ("doors", "single"),
    "rest": ("doors", "rest_batches"),
    "ndjson": ("doors", "ndjson"),
    "grpc": ("doors", "grpc_batches"),
    "sdk": ("doors", "sdk_batches"),
    "submit": ("statements", "submit"),
    "live": ("statements", "live"),
    "renew": ("statements", "renew"),
    "apart": ("apart", "run"),
    "python": ("python", "run"),
    "saturate": ("steady", "saturate"),
    "steady": ("steady", "steady"),
    "one_by_one": ("one_by_one", "run"),
    "idle_workers": ("idle_workers", "run"),
}


def main() -> None:
    """Run the generator that the command line names."""
    module, function = GENERATORS[sys.argv[1]]
    generator = getattr(importlib.import_module(f"benchmarks.generators.{module}"), function)
    print(json.dumps(uvloop.run(generator(**json.loads(sys.argv[2])))), flush=True)


if __name__ == "__main__":
    main()
