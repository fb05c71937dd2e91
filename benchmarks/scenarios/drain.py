"""Drain: a backlog, one or two servers, one or two worker processes with no-op handlers."""

from collections.abc import Iterator

from benchmarks.draining import drain, fill
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import BARE_WORKER, Stage

CASES = {"1 worker, 1 server": (1, 1), "2 workers, 1 server": (2, 1), "2 workers, 2 servers": (2, 2)}


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure each number of workers and servers on an empty database, and the floor."""
    count = 10_000 if short else 300_000
    for what, (workers, servers) in CASES.items():
        stage.begin(servers=servers)
        fill(stage, count)
        yield drain(stage, what, count, workers=workers)
    stage.begin_bare(jobs=count)
    yield drain(stage, "the floor: a row taken out and one put in, 1 bare worker", count, program=BARE_WORKER)


SCENARIO = Scenario("drain", "How fast a backlog of no-op jobs is finished, outcomes durable", run)
