"""The shipped statements by themselves: submit, lease, settle and renew, with only the driver around them.

They also fill queues and histories for other scenarios, since nothing is faster and they cannot drift from the schema.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import LeaseBatch, NewJob, Report
from quorra_server.domain.states import OutcomeKind
from quorra_server.storage import jobs, leases
from quorra_server.storage.database import Pool, PoolSettings
from quorra_server.storage.leases import HEAD, Cursor

from benchmarks.generators.stopwatch import Stopwatch
from benchmarks.load import QUEUE, Target, payload, queue_names

CONNECTIONS = 4
LEASE_MS = 600_000
PRINCIPAL = "p"


async def submit(
    *,
    count: int,
    batch: int = 1_000,
    queues: int = 1,
    delay_seconds: int = 0,
    size_bytes: int = 200,
    **target: Any,
) -> dict[str, Any]:
    """Submit jobs, spread over queues in turn."""
    pool = await open_pool(Target(**target))
    text = json.dumps(payload(0, size_bytes))
    names = queue_names(queues)
    delay_ms = int(timedelta(seconds=delay_seconds) / timedelta(milliseconds=1))
    batches = iter(range(0, count, batch))

    def new_jobs(first: int) -> list[NewJob]:
        numbers = range(first, min(first + batch, count))
        return [
            NewJob(new_job_id(), "noop", text, queue=names[number % queues], delay_ms=delay_ms) for number in numbers
        ]

    async def one() -> None:
        for first in batches:
            await jobs.submit_jobs(pool, new_jobs(first))

    stopwatch = Stopwatch()
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    reply = stopwatch.reply(count)
    await pool.close()
    return reply


async def live(*, count: int, batch: int, **target: Any) -> dict[str, Any]:
    """Lease, settle and close until so many jobs have succeeded."""
    pool = await open_pool(Target(**target))
    turns = iter(range(0, count, batch))
    stopwatch = Stopwatch()
    done = sum(await asyncio.gather(*(_live(pool, batch, turns) for _ in range(CONNECTIONS))))
    reply = stopwatch.reply(done)
    await pool.close()
    return reply


async def _live(pool: Pool, limit: int, turns: Iterator[int]) -> int:
    done = 0
    for _ in turns:
        leased = await lease(pool, limit)
        if leased is None:
            break
        done += await settle(pool, successes(leased))
        await leases.close_batches(pool, [leased.batch])
    return done


async def renew(*, count: int, batch: int = 1_000, **target: Any) -> dict[str, Any]:
    """Lease so many jobs and renew them all in one call."""
    pool = await open_pool(Target(**target))
    secrets = {}
    for _ in range(0, count, batch):
        leased = await lease(pool, batch)
        assert leased is not None
        secrets[leased.batch] = leased.secret
    stopwatch = Stopwatch()
    alive = await leases.renew_leases(pool, PRINCIPAL, secrets, LEASE_MS)
    reply = stopwatch.reply(count)
    assert alive == secrets.keys()
    await pool.close()
    return reply


async def lease(pool: Pool, limit: int, begin: Cursor = HEAD) -> LeaseBatch | None:
    """Lease the next jobs."""
    return await leases.lease_jobs(
        pool, queue=QUEUE, limit=limit, worker="w", principal=PRINCIPAL, lease_ms=LEASE_MS, secret=uuid4(), begin=begin
    )


def successes(leased: LeaseBatch) -> list[Report]:
    """Return reports that all jobs of a lease have succeeded."""
    return [Report(lease, OutcomeKind.SUCCEEDED, 1) for lease in leased.lease_ids()]


async def settle(pool: Pool, reports: Sequence[Report]) -> int:
    """Settle attempts; return how many reports decided."""
    ended = await leases.settle_attempts(pool, PRINCIPAL, reports)
    return sum(len(alike.ordinals) for alike in ended)


async def open_pool(target: Target, connections: int = CONNECTIONS) -> Pool:
    """Connect to the database of a target."""
    pool = Pool(PoolSettings(target.database_url, connections, acquire_seconds=10, statement_seconds=60))
    await pool.open()
    return pool
