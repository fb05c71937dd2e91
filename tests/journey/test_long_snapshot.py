"""Somebody holds a snapshot for long: dead entries pile up at the head of a queue; leases must not walk over them."""

import asyncio
import re
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest

NOOP = """
    from quorra_worker_sdk import Worker

    worker = Worker(slots=100)

    @worker.job("noop")
    async def noop(n: int) -> None: ...
"""
BATCHES, BATCH_JOBS = 12, 10_000
TRICKLED = 40


def _cursor_leases(server: RunningServer) -> float:
    text = httpx.get(f"{server.http_url}/metrics").text
    return sum(float(value) for value in re.findall(r"^quorra_cursor_leases_total{.*} (\S+)$", text, re.MULTILINE))


@pytest.mark.slow
async def test_with_a_long_snapshot_leases_begin_at_the_cursor_and_nothing_is_left_behind(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    reader = await asyncpg.connect(server.database_url)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetchval("SELECT count(*) FROM quorra.ready")
        with start_worker(server, NOOP, tmp_path):
            for _ in range(BATCHES):
                await asyncio.to_thread(rest.submit_many, BATCH_JOBS, "noop")
            await asyncio.to_thread(rest.until_count, "default", "succeeded", BATCHES * BATCH_JOBS, 90)

            for number in range(TRICKLED):
                job_id = rest.submit("noop", {"n": number}, priority=number % 3)
                job = await asyncio.to_thread(rest.ended, job_id, 10)
                assert "succeeded" == job["status"]
            used = _cursor_leases(server)
    await reader.close()

    assert used > 0
    assert 0 == rest.count("default", "pending")
