"""Backlog: what jobs that wait cost the others: the drain from the head of a long queue, and the latency beside it."""

from collections.abc import Iterator

from benchmarks.draining import PROBE_QUEUE, drain, fill, percentiles, probe
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage

DAY_SECONDS = 86_400


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure the same drain with an empty queue behind it and with more and more jobs; then with delayed ones."""
    count, sizes = (10_000, (0, 10_000)) if short else (200_000, (0, 100_000, 1_000_000))
    rates = []
    for size in sizes:
        stage.begin()
        fill(stage, count + size)
        waits_ms = probe(stage, 20 if short else 200, queue=PROBE_QUEUE)
        yield from percentiles("latency in another queue", waits_ms, 50, 99, at=size)
        figure = drain(stage, "drain with jobs pending behind", count, at=size)
        rates.append(figure.value)
        yield figure
    yield Figure(f"cost of {sizes[-1]:,} pending", (1 - rates[-1] / rates[0]) * 100, "%")
    stage.begin()
    fill(stage, sizes[-1], delay_seconds=DAY_SECONDS)
    fill(stage, count)
    figure = drain(stage, f"drain with {sizes[-1]:,} delayed in the queue", count)
    yield figure
    yield Figure(f"cost of {sizes[-1]:,} delayed", (1 - figure.value / rates[0]) * 100, "%")


SCENARIO = Scenario("backlog", "What a backlog costs: the same drain with more jobs behind it", run, "jobs pending")
