"""A handler hangs past its timeout in a way that its worker cannot stop: the job runs again elsewhere."""

from pathlib import Path

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync

BLOCKER = """
    import time
    from datetime import timedelta
    from pathlib import Path
    from quorra_worker_sdk import Worker

    worker = Worker(slots=1, lease_ttl=timedelta(seconds=3), prefetch_jobs_max=0)

    @worker.job("hang")
    async def hang(n: int = 0) -> None:
        Path("hangs").touch()
        while not Path("let-go").exists():
            time.sleep(0.05)  # the event loop stands still, and with it every timeout of the worker's
"""
STUBBORN = """
    import asyncio
    from datetime import timedelta
    from pathlib import Path
    from quorra_worker_sdk import Worker

    worker = Worker(slots=1, lease_ttl=timedelta(seconds=3), prefetch_jobs_max=0)

    @worker.job("hang")
    async def hang(n: int = 0) -> None:
        Path("hangs").touch()
        while not Path("let-go").exists():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                Path("was-cancelled").touch()
"""
QUICK = """
    from quorra_worker_sdk import Context, Worker

    worker = Worker(slots=2)

    @worker.job("hang")
    async def hang(ctx: Context[None], n: int = 0) -> int:
        return ctx.job.attempt
"""


def test_a_handler_that_blocks_its_worker_loses_the_job_past_its_timeout_while_the_heartbeat_goes_on(
    server: RunningServer, tmp_path: Path
) -> None:
    _hang_and_run_elsewhere(server, tmp_path, BLOCKER)


def test_a_handler_that_ignores_its_cancellation_loses_the_job_past_its_timeout(
    server: RunningServer, tmp_path: Path
) -> None:
    _hang_and_run_elsewhere(server, tmp_path, STUBBORN)

    assert (tmp_path / "was-cancelled").exists()


def _hang_and_run_elsewhere(server: RunningServer, folder: Path, module: str) -> None:
    rest = Rest(server)
    job_id = rest.submit("hang", timeout_seconds=1, backoff={"kind": "fixed", "base_seconds": 0.001})
    with start_worker(server, module, folder) as hanging:
        eventually_sync((folder / "hangs").exists, "the handler hangs")
        with start_worker(server, QUICK, folder):
            done = rest.ended(job_id)
        (folder / "let-go").touch()
        eventually_sync(lambda: "was refused" in hanging.log or "is stopped" in hanging.log, "it is told")

    assert ("succeeded", 2, 2) == (done["status"], done["attempts"], done["result"])
    assert "timeout after 1 s" == done["last_error"]
    assert ["expired", "succeeded"] == rest.history(job_id)
    assert "succeeded" == rest.job(job_id)["status"]


def test_a_timeout_that_only_the_handler_has_ends_the_renewals_of_its_lease(
    server: RunningServer, tmp_path: Path
) -> None:
    """A job submitted without a timeout: the server knows of none, and sees only that nobody renews the lease."""
    module = BLOCKER.replace('@worker.job("hang")', '@worker.job("hang", timeout=timedelta(seconds=1))')
    rest = Rest(server)
    job_id = rest.submit("hang", backoff={"kind": "fixed", "base_seconds": 0.001})
    with start_worker(server, module, tmp_path):
        eventually_sync((tmp_path / "hangs").exists, "the handler hangs")
        with start_worker(server, QUICK, tmp_path):
            done = rest.ended(job_id, 60)
        (tmp_path / "let-go").touch()

    assert ("succeeded", 2, 2) == (done["status"], done["attempts"], done["result"])
    assert ["expired", "succeeded"] == rest.history(job_id)


def test_a_run_that_was_extended_is_left_alone(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    module = """
        import asyncio
        from datetime import timedelta
        from quorra_worker_sdk import Context, Worker

        worker = Worker(slots=2)

        @worker.job("long")
        async def long(ctx: Context[None], n: int = 0) -> str:
            ctx.extend(timedelta(seconds=30))
            await asyncio.sleep(7.5)  # the timeout, the server's grace and its round
            return "finished"
    """
    job_id = rest.submit("long", timeout_seconds=1)
    with start_worker(server, module, tmp_path):
        done = rest.ended(job_id)

    assert ("succeeded", 1, "finished") == (done["status"], done["attempts"], done["result"])
