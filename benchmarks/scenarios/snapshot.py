"""Snapshot: a long transaction beside, such as a report, keeps PostgreSQL from clearing what has been drained."""

from collections.abc import Iterator

from benchmarks import database
from benchmarks.draining import drain, fill
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure the same drain without and with an open snapshot."""
    count = 10_000 if short else 300_000
    _begin(stage, count)
    free = drain(stage, "drain, no transaction beside", count)
    yield free
    _begin(stage, count)
    with database.open_snapshot(stage.database_url):
        held = drain(stage, "drain, a snapshot open since before", count)
    yield held
    yield Figure("cost of the snapshot", (1 - held.value / free.value) * 100, "%")


def _begin(stage: Stage, count: int) -> None:
    stage.begin()
    fill(stage, count)


SCENARIO = Scenario("snapshot", "What a long transaction beside costs the drain", run)
