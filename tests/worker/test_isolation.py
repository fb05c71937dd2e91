"""Jobs share a task where that is cheaper; none notices what another one did to it. Real server, real worker."""

from pathlib import Path

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest

JOBS = 100
MODULE = """
    import asyncio
    from contextvars import ContextVar

    from quorra_worker_sdk import Worker

    mark: ContextVar[int] = ContextVar("mark", default=0)
    worker = Worker(slots=3)

    @worker.job("marks")
    async def marks(n: int) -> int:
        before = mark.get()
        mark.set(n)
        if n % 3 == 0:
            await asyncio.sleep(0)
        return before

    @worker.job("cancels_itself")
    async def cancels_itself(n: int) -> str:
        asyncio.current_task().cancel()
        return "done"

    @worker.job("waits")
    async def waits(n: int) -> str:
        await asyncio.sleep(0)
        return "done"
"""


def _results(rest: Rest, job_ids: list[str]) -> list[object]:
    return [rest.ended(job_id)["result"] for job_id in job_ids]


def test_a_context_variable_that_a_handler_sets_is_not_seen_by_the_next_job(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    job_ids = [rest.submit("marks", {"n": n + 1}) for n in range(JOBS)]

    with start_worker(server, MODULE, tmp_path):
        seen = _results(rest, job_ids)

    assert [0] * JOBS == seen


def test_a_handler_that_cancels_its_own_task_and_returns_harms_no_other_job(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    job_ids = [rest.submit("cancels_itself" if n % 2 else "waits", {"n": n}) for n in range(JOBS)]

    with start_worker(server, MODULE, tmp_path):
        results = _results(rest, job_ids)

    assert ["done"] * JOBS == results
