"""The shipped statements by themselves: submit, lease and settle, with nothing of ours around them but the driver."""

import asyncio
import json
import time
from collections.abc import Iterator
from uuid import uuid4

from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import NewJob, Report
from quorra_server.domain.states import OutcomeKind
from quorra_server.storage import jobs, leases
from quorra_server.storage.database import Pool, PoolSettings

from benchmarks.stage import Figure, Stage, payload

SUBMIT_BATCH = 1_000
CONNECTIONS = 4
QUEUE = "bench"


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure submits in batches of 1,000, and the whole life of jobs in lease batches of 100 and 1,000."""
    yield from asyncio.run(_measure(stage, 5_000 if short else 100_000))


async def _measure(stage: Stage, count: int) -> list[Figure]:
    pool = Pool(PoolSettings(stage.database_url, CONNECTIONS, acquire_seconds=10, statement_seconds=60))
    await pool.open()
    figures = [Figure("submit, batches of 1,000", await _submit(pool, count), "jobs/s")]
    for lease_batch in (100, 1_000):
        if lease_batch > 100:
            await _submit(pool, count)
        before = await _wal_bytes(pool)
        rate = await _live(pool, count, lease_batch)
        wal = (await _wal_bytes(pool) - before) / count
        figures.append(Figure(f"lease + settle + close, batches of {lease_batch:,}", rate, "jobs/s"))
        figures.append(Figure(f"WAL of lease + settle + close, batches of {lease_batch:,}", wal, "bytes/job"))
    figures.append(Figure("renew all leased jobs (100,000)", await _renew(pool, count), "ms"))
    await pool.close()
    return figures


async def _submit(pool: Pool, count: int) -> float:
    text = json.dumps(payload(0))
    batches = [
        [NewJob(new_job_id(), "noop", text, queue=QUEUE) for _ in range(SUBMIT_BATCH)]
        for _ in range(count // SUBMIT_BATCH)
    ]
    left = iter(batches)

    async def one() -> None:
        for batch in left:
            await jobs.submit_jobs(pool, batch)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return count / (time.perf_counter() - began)


async def _live(pool: Pool, count: int, limit: int) -> float:
    async def one() -> None:
        while True:
            batch = await leases.lease_jobs(
                pool, queue=QUEUE, limit=limit, worker="w", principal="p", lease_ms=60_000, secret=uuid4()
            )
            if batch is None:
                return
            reports = [Report(lease, OutcomeKind.SUCCEEDED, 1) for lease in batch.lease_ids()]
            settled = await leases.settle_attempts(pool, "p", reports)
            assert len(settled) == len(reports)
            await leases.close_batches(pool, [batch.batch])

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return count / (time.perf_counter() - began)


async def _renew(pool: Pool, count: int) -> float:
    await _submit(pool, count)
    secrets = {}
    while batch := await leases.lease_jobs(
        pool, queue=QUEUE, limit=1_000, worker="w", principal="p", lease_ms=60_000, secret=uuid4()
    ):
        secrets[batch.batch] = batch.secret
    began = time.perf_counter()
    alive = await leases.renew_leases(pool, "p", secrets, 60_000)
    assert alive == secrets.keys()
    return (time.perf_counter() - began) * 1000


async def _wal_bytes(pool: Pool) -> int:
    rows = await pool.fetch("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS bytes")
    return int(rows[0]["bytes"])
