"""A poison job kills every worker that starts it: it ends dead, and its neighbours do not pay."""

from pathlib import Path

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync

MAX_RETRIES = 3
MODULE = """
    import asyncio
    import os
    import signal
    from datetime import timedelta
    from quorra_worker_sdk import Worker

    worker = Worker(slots=1, lease_ttl=timedelta(seconds=2), prefetch_jobs_max=50)

    @worker.job("neighbour")
    async def neighbour(n: int = 0) -> None:
        await asyncio.sleep(0.002)

    @worker.job("poison")
    async def poison() -> None:
        # Long enough for its start to be reported, as real poison is.
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_poison_is_dead_after_its_last_retry_and_every_neighbour_runs_once(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    poison = rest.submit("poison", priority=5, max_retries=MAX_RETRIES, backoff={"kind": "fixed", "base_seconds": 0.01})
    neighbours = rest.submit_many(100, "neighbour")
    for deaths in range(MAX_RETRIES + 1):
        # Jobs that run before it let the worker prefetch, so that neighbours are held when it dies.
        neighbours += rest.submit_many(100, "neighbour", priority=10)
        with start_worker(server, MODULE, tmp_path) as worker:
            assert -9 == worker.process.wait(30)
        _until_expired(rest, poison, deaths + 1)
    with start_worker(server, MODULE, tmp_path):
        jobs = [rest.ended(job_id) for job_id in neighbours]
    found = rest.ended(poison)

    assert ("dead", MAX_RETRIES + 1) == (found["status"], found["attempts"])
    assert ["expired"] * (MAX_RETRIES + 1) == rest.history(poison)
    assert {("succeeded", 1)} == {(job["status"], job["attempts"]) for job in jobs}
    # Without neighbours in the hands of a dying worker the test would prove nothing.
    held = [job for job in jobs if job["deliveries"] > 1]
    assert len(held) > MAX_RETRIES


def _until_expired(rest: Rest, job_id: str, times: int) -> None:
    eventually_sync(lambda: len(rest.history(job_id)) == times, "its lease has run out")
