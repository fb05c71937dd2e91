"""A worker is killed: its started job runs again in time, its neighbours do not pay."""

import time
from pathlib import Path

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync

LEASE_SECONDS = 2

SLEEPER = """
    import asyncio
    from datetime import timedelta
    from quorra_worker_sdk import Worker

    worker = Worker(slots=1, lease_ttl=timedelta(seconds=2), prefetch_jobs_max=50)

    @worker.job("sleep")
    async def sleep(n: int = 0) -> None:
        await asyncio.sleep(600)
"""
QUICK = """
    from datetime import timedelta
    from quorra_worker_sdk import Context, Worker

    worker = Worker(slots=5, lease_ttl=timedelta(seconds=2))

    @worker.job("sleep")
    async def sleep(ctx: Context[None], n: int = 0) -> int:
        return ctx.job.attempt
"""


def test_a_killed_workers_started_job_is_leased_again_by_ttl_plus_2_seconds(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    job_id = rest.submit("sleep", backoff={"kind": "fixed", "base_seconds": 0.001})
    with start_worker(server, SLEEPER, tmp_path) as worker:
        rest.until(job_id, "processing")
        worker.kill()
    killed_at = time.monotonic()

    with start_worker(server, QUICK, tmp_path):
        done = rest.ended(job_id)

    assert time.monotonic() - killed_at < LEASE_SECONDS + 2
    assert ("succeeded", 2, 2) == (done["status"], done["attempts"], done["result"])
    assert ["expired", "succeeded"] == rest.history(job_id)
    assert "lease expired" == done["last_error"]


def test_unstarted_neighbours_of_a_killed_worker_are_not_charged(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    ids = rest.submit_many(2, "sleep", backoff={"kind": "fixed", "base_seconds": 0.001})
    with start_worker(server, SLEEPER, tmp_path) as worker:
        eventually_sync(lambda: rest.count("default", "processing") == 1, "one job runs")
        worker.kill()
    waiting = [job_id for job_id in ids if rest.job(job_id)["status"] in ("pending", "leased")]

    with start_worker(server, QUICK, tmp_path):
        jobs = [rest.ended(job_id) for job_id in ids]

    assert 1 == len(waiting)
    assert {1, 2} == {job["attempts"] for job in jobs}


def test_a_worker_that_stops_politely_gives_unstarted_jobs_back_and_ends_running_ones(
    server: RunningServer, tmp_path: Path
) -> None:
    """It holds unstarted ones once it has seen that jobs end quickly."""
    rest = Rest(server)
    module = """
        import asyncio
        from pathlib import Path
        from quorra_worker_sdk import Worker

        worker = Worker(slots=1)

        @worker.job("quick")
        async def quick() -> None:
            await asyncio.sleep(0.002)

        @worker.job("slow")
        async def slow(n: int = 0) -> str:
            while not Path("go").exists():
                await asyncio.sleep(0.02)
            return "finished"
    """
    rest.submit_many(300, "quick")
    running, unstarted = rest.submit_many(2, "slow")
    with start_worker(server, module, tmp_path) as worker:
        rest.until(running, "processing")
        rest.until(unstarted, "leased")
        worker.process.terminate()
        eventually_sync(lambda: "draining" in worker.log, "the worker drains")
        late = rest.submit("slow")
        (tmp_path / "go").touch()
        code = worker.process.wait(20)

    assert 0 == code
    assert ("succeeded", "finished") == (rest.job(running)["status"], rest.job(running)["result"])
    assert ("pending", 0, 1) == tuple(rest.job(unstarted)[name] for name in ("status", "attempts", "deliveries"))
    assert ("pending", 0, 0) == tuple(rest.job(late)[name] for name in ("status", "attempts", "deliveries"))
