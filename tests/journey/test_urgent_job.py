"""Leases of a backlog go on where the last one ended; what ranks higher is found all the same, and soon."""

import asyncio
from pathlib import Path

import pytest

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest

BACKLOG = 20_000
PAUSING = """
    import asyncio
    from quorra_worker_sdk import Worker

    worker = Worker(slots=10, prefetch_jobs_max=50)

    @worker.job("pausing")
    async def pausing(n: int) -> None:
        await asyncio.sleep(0.005)
"""


@pytest.mark.slow
async def test_an_urgent_job_overtakes_a_backlog_that_is_being_drained(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    for _ in range(BACKLOG // 10_000):
        await asyncio.to_thread(rest.submit_many, 10_000, "pausing")
    with start_worker(server, PAUSING, tmp_path):
        await asyncio.to_thread(rest.until_count, "default", "succeeded", 500)

        urgent = rest.submit("pausing", {"n": 0}, priority=1)
        await asyncio.to_thread(rest.ended, urgent, 30)

        assert rest.count("default", "pending") > BACKLOG // 2
