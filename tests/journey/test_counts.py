"""Counters equal events and gauges equal counts, across stops and kills of servers."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from tests.support.processes import RunningServer, start_server, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync

MIXED = """
    from quorra_worker_sdk import Worker

    worker = Worker()

    @worker.job("works")
    async def works(n: int = 0) -> None:
        pass

    @worker.job("fails")
    async def fails(n: int = 0) -> None:
        raise RuntimeError("as planned")
"""
REAL_COUNTS = """
SELECT status, count(*) FROM quorra.jobs, quorra.job_states(ARRAY[jobs.id]) GROUP BY status
"""


@pytest.mark.parametrize("ending", ["stopped", "killed"])
def test_gauges_equal_the_jobs_whatever_became_of_the_server_that_counted(
    database_url: str, tmp_path: Path, ending: str
) -> None:
    """Counts are written in the statement that moves the job, so that no end of a server can part them."""
    with start_server(database_url) as server, start_worker(server, MIXED, tmp_path):
        _do_work(Rest(server))
        counted_before = _metrics(server)
        server.terminate() if ending == "stopped" else server.kill()
    with start_server(database_url) as server:
        Rest(server).submit_many(3, "unknown")
        real = asyncio.run(_real_counts(database_url))
        eventually_sync(lambda: _lengths(server) == real, f"the gauges say {real}")
        counted_after = _metrics(server)

    assert {"pending": 7, "succeeded": 6, "dead": 2} == real
    # A counter is one server's, from its start on: a sum over all that ever served is what Prometheus makes of it.
    assert (12, 3) == (_total(counted_before, "jobs_created"), _total(counted_after, "jobs_created"))
    assert (8, 0) == (_total(counted_before, "jobs_processed"), _total(counted_after, "jobs_processed"))
    assert (2, 0) == (_total(counted_before, "jobs_dead"), _total(counted_after, "jobs_dead"))


def _do_work(rest: Rest) -> None:
    """Six jobs succeed, two die, four stay, since nobody knows their type."""
    ended = [*rest.submit_many(6, "works"), *rest.submit_many(2, "fails", max_retries=0)]
    rest.submit_many(4, "unknown")
    for job in ended:
        rest.ended(job)


def _metrics(server: RunningServer) -> str:
    reply = Rest(server).http.get("/metrics")
    return reply.text if reply.is_success else ""


def _total(text: str, name: str) -> int:
    return int(
        sum(float(value) for value in re.findall(rf"^quorra_{name}_total\{{[^}}]*\}} (\S+)$", text, re.MULTILINE))
    )


def _lengths(server: RunningServer) -> dict[str, int]:
    found = re.findall(r'^quorra_job_queue_length\{.*status="(\w+)"\} (\S+)$', _metrics(server), re.MULTILINE)
    counts: Counter[str] = Counter()
    for status, value in found:
        counts[status] += int(float(value))
    return {status: count for status, count in counts.items() if count}


async def _real_counts(database_url: str) -> dict[str, int]:
    connection = await asyncpg.connect(database_url)
    try:
        return dict(await connection.fetch(REAL_COUNTS))
    finally:
        await connection.close()
