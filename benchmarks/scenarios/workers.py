"""Workers: the same drain and the idle latency with more worker processes on one server."""

from collections.abc import Iterator

from benchmarks.draining import drain, fill, percentiles, probe
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure each number of workers."""
    count, numbers = (10_000, (1, 2)) if short else (200_000, (1, 2, 4))
    for number in numbers:
        stage.begin()
        waits_ms = probe(stage, 20 if short else 200, workers=number)
        yield from percentiles("latency", waits_ms, 50, 99, at=number)
        fill(stage, count)
        yield drain(stage, "drain, 1 server", count, workers=number, at=number)


SCENARIO = Scenario("workers", "What more worker processes bring, all on one machine", run, "workers")
