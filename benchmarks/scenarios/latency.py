"""Latency on an idle system: from just before the POST to the first line of the handler, one job at a time."""

from collections.abc import Iterator

from benchmarks.draining import percentiles, probe
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure p50, p95 and p99, and beside them what the same hops take where a server does next to nothing."""
    count = 20 if short else 1_000
    stage.begin()
    yield from percentiles("submit to handler", probe(stage, count), 50, 95, 99)
    stage.begin_bare()
    yield from percentiles("the floor: one insert and one message", probe(stage, count), 50, 95, 99)


SCENARIO = Scenario("latency", "How long a job waits on an idle system, from before its POST to its handler", run)
