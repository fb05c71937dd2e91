"""The shipped statements by themselves: submit, lease and settle, with nothing of ours around them but the driver."""

from collections.abc import Iterator

from benchmarks import database
from benchmarks.draining import fill
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage
from benchmarks.usage import Window

BATCH = 1_000


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure submits in batches of 1,000, and the whole life of jobs in lease batches of 100 and 1,000."""
    count = 5_000 if short else 200_000
    stage.begin()
    window, wal = stage.window(), database.wal_bytes(stage.database_url)
    reply = stage.generate("submit", count=count, batch=BATCH)
    yield _rate(window, reply, "submit, batches of 1,000")
    yield _wal(stage, wal, count, "submit, batches of 1,000")
    for batch in (100, BATCH):
        stage.begin()
        fill(stage, count)
        window, wal = stage.window(), database.wal_bytes(stage.database_url)
        reply = stage.generate("live", count=count, batch=batch)
        yield _rate(window, reply, f"lease + settle + close, batches of {batch:,}")
        yield _wal(stage, wal, count, f"lease + settle + close, batches of {batch:,}")
    fill(stage, count)
    reply = stage.generate("renew", count=count, batch=BATCH)
    yield Figure(f"renew {count:,} leased jobs", reply["seconds"] * 1000, "ms")


def _rate(window: Window, reply: dict[str, float], what: str) -> Figure:
    jobs = int(reply["jobs"])
    return window.figure(what, jobs / reply["seconds"], "jobs/s", jobs=jobs, seconds=reply["seconds"])


def _wal(stage: Stage, before: int, count: int, what: str) -> Figure:
    return Figure(f"WAL of {what}", (database.wal_bytes(stage.database_url) - before) / count, "bytes/job")


SCENARIO = Scenario("storage", "The shipped SQL statements by themselves, over four connections", run)
