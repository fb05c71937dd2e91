"""Queues: the same jobs spread over more and more queues, all of which one worker listens to."""

from collections.abc import Iterator

from benchmarks.draining import drain, fill, percentiles, probe
from benchmarks.figures import Figure, Scenario
from benchmarks.load import queue_names
from benchmarks.stage import Stage


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure the drain and the idle latency of the last queue."""
    count, numbers = (10_000, (1, 20)) if short else (200_000, (1, 10, 100, 1_000))
    for number in numbers:
        stage.begin()
        names = queue_names(number)
        waits_ms = probe(stage, 20 if short else 200, queue=names[-1], queues=",".join(names))
        yield from percentiles("latency in the last queue", waits_ms, 50, 99, at=number)
        fill(stage, count, queues=number)
        yield drain(stage, "drain of jobs spread over queues", count, queues=number, at=number)


SCENARIO = Scenario("queues", "What many queues cost: the same jobs spread over more of them", run, "queues")
