"""Servers: the same drain and the idle latency with more servers, and as many workers each time."""

from collections.abc import Iterator

from benchmarks.draining import drain, fill, percentiles, probe
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure each number of servers with as many workers as the most of them, spread over them."""
    count, numbers = (10_000, (1, 2)) if short else (200_000, (1, 2, 4))
    workers = numbers[-1]
    for number in numbers:
        stage.begin(servers=number)
        waits_ms = probe(stage, 20 if short else 200, workers=workers)
        yield from percentiles("latency", waits_ms, 50, 99, at=number)
        fill(stage, count)
        yield drain(stage, f"drain, {workers} workers", count, workers=workers, at=number)


SCENARIO = Scenario("servers", "What more servers bring, all on one machine", run, "servers")
