"""What most scenarios share: fill a queue, let workers drain it, and ask an idle system for its latency."""

import time
from collections.abc import Sequence

from benchmarks import database
from benchmarks.figures import Figure
from benchmarks.load import QUEUE, queue_names
from benchmarks.stage import WORKER, Stage
from benchmarks.worker_record import percentile

SECONDS_MAX = 180.0
FIRST_LOOK_SECONDS = 0.01
LOOK_SECONDS = (0.05, 1.0)
# A queue beside the one that is full.
PROBE_QUEUE = "probe"


def fill(stage: Stage, count: int, *, queues: int = 1, size_bytes: int = 200, delay_seconds: int = 0) -> None:
    """Submit jobs with the shipped statement, tidy up as PostgreSQL would, and see that the product counts them."""
    stage.say(f"filling {count:,} jobs")
    before = stage.counts().get("pending", 0)
    # About a megabyte a statement, whatever the size of a payload.
    batch = max(1, min(1_000, 1_000_000 // size_bytes))
    stage.generate(
        "submit", count=count, batch=batch, queues=queues, size_bytes=size_bytes, delay_seconds=delay_seconds
    )
    database.tidy(stage.database_url)
    counted = stage.counts().get("pending", 0) - before
    if counted != count:
        raise RuntimeError(f"{count:,} jobs were submitted, but the product counts {counted:,}")


def drain(
    stage: Stage,
    what: str,
    count: int,
    *,
    workers: int = 1,
    queues: int = 1,
    at: float | None = None,
    program: Sequence[str] = WORKER,
) -> Figure:
    """Let workers finish so many of the jobs that wait, and measure how fast.

    The clock runs from the last look at which none had ended to when all have: starting Python is not what is measured,
    so workers that have started wait for each other. Ended means that the outcome is durable.

    Args:
        program: What a worker is.
    """
    stage.say(f"draining: {what}")
    before = _succeeded(stage)
    stage.start_workers_together(workers, program, BENCH_QUEUES=",".join(queue_names(queues)))
    deadline = time.monotonic() + SECONDS_MAX
    window = stage.window()
    while (done := _succeeded(stage) - before) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {done:,} of {count:,} jobs had succeeded after {SECONDS_MAX:g} s")
        time.sleep(_pause(count - done, window.seconds / done) if done else FIRST_LOOK_SECONDS)
        if not done:
            window = stage.window()
    figure = window.figure(what, done / window.seconds, "jobs/s", jobs=done, at=at)
    stage.stop_workers()
    return figure


def _pause(left: int, seconds_each: float) -> float:
    """Return how long not to look: half of what the rest takes, as a look takes CPU time that is missing elsewhere."""
    shortest, longest = LOOK_SECONDS
    return min(max(left * seconds_each / 2, shortest), longest)


def _succeeded(stage: Stage) -> int:
    return stage.counts().get("succeeded", 0)


def probe(
    stage: Stage, count: int, *, queue: str = QUEUE, queues: str = "", workers: int = 1, size_bytes: int = 200
) -> list[float]:
    """Send jobs one at a time to idle workers and return their waits in milliseconds, sorted.

    Args:
        queue: Where the jobs go.
        queues: What the workers listen to, separated by commas; `queue` alone by default.
    """
    stage.say(f"sending {count:,} jobs one at a time")
    record = stage.folder / "record"
    record.unlink(missing_ok=True)
    for _ in range(workers):
        stage.start_worker(BENCH_RECORD=str(record), BENCH_QUEUES=queues or queue)
    stage.wait_for_workers(workers)
    reply = stage.generate("one_by_one", count=count, record=str(record), queue=queue, size_bytes=size_bytes)
    stage.stop_workers()
    return sorted(reply["waits_ms"])


def percentiles(what: str, waits_ms: list[float], *percents: float, at: float | None = None) -> list[Figure]:
    """Return some percentiles of sorted waits."""
    return [Figure(f"{what}, p{percent:g}", percentile(waits_ms, percent), "ms", at) for percent in percents]
