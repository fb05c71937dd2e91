"""History: what finished jobs, which stay readable, cost the ones that are still to come."""

from collections.abc import Iterator

from benchmarks import database
from benchmarks.draining import drain, fill, percentiles, probe
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage

BATCH = 1_000


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure the same drain with nothing finished before it and with more and more."""
    count, sizes = (10_000, (0, 10_000)) if short else (200_000, (0, 100_000, 1_000_000))
    rates = []
    for size in sizes:
        stage.begin()
        if size:
            _finish(stage, size)
        waits_ms = probe(stage, 20 if short else 200)
        yield from percentiles("latency", waits_ms, 50, 99, at=size)
        fill(stage, count)
        figure = drain(stage, "drain with jobs finished before", count, at=size)
        rates.append(figure.value)
        yield figure
    yield Figure(f"cost of {sizes[-1]:,} finished", (1 - rates[-1] / rates[0]) * 100, "%")


def _finish(stage: Stage, count: int) -> None:
    """Let jobs live their whole life by the shipped statements, and see that the product counts them."""
    fill(stage, count)
    stage.say(f"finishing {count:,} jobs")
    stage.generate("live", count=count, batch=BATCH)
    database.tidy(stage.database_url)
    counts = stage.counts()
    if counts.get("succeeded") != count or counts.get("pending"):
        raise RuntimeError(f"{count:,} jobs were finished, but the product counts {counts}")


SCENARIO = Scenario("history", "What history costs: the same drain with more finished jobs", run, "jobs finished")
