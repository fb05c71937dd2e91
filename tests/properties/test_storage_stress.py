"""Many hands at once: workers that settle late and twice, sweepers, cancels, open and rolled-back transactions."""

import asyncio
import random
from uuid import uuid4

import pytest
from quorra_server.domain.errors import StorageUnavailable
from quorra_server.domain.job import LeaseId, Report
from quorra_server.domain.states import OutcomeKind
from quorra_server.storage import leases
from quorra_server.storage.database import KeyTaken

from tests.support.queue_spec import PRINCIPAL, QueueSpec

JOBS = 600
WORKERS = 6
SECONDS_MAX = 40
KINDS = [OutcomeKind.SUCCEEDED] * 5 + [OutcomeKind.FAILED, OutcomeKind.RELEASED, OutcomeKind.SNOOZED]


class _Abandoned(Exception):
    """A user's transaction that is rolled back."""


@pytest.mark.slow
async def test_under_concurrency_each_lease_ends_once_and_each_job_is_in_one_place(database_url: str) -> None:
    chance = random.Random(7)
    accepted: list[tuple[int, int]] = []
    old: list[LeaseId] = []
    async with QueueSpec(database_url, connections=WORKERS + 4) as queue:
        await queue.submit(JOBS, max_retries=1_000, backoff=None)
        done = asyncio.Event()

        async def settle(lease: LeaseId, kind: OutcomeKind) -> None:
            if chance.random() < 0.1:
                try:
                    async with queue.pool.transaction() as transaction:
                        await leases.settle_attempts(transaction, PRINCIPAL, [Report(lease, kind, 1)])
                        await asyncio.sleep(chance.random() * 0.02)
                        raise _Abandoned
                except (_Abandoned, KeyTaken):  # the latter: the lease had ended, so the statement did nothing
                    pass
            if kind is OutcomeKind.SUCCEEDED and chance.random() < 0.3:
                accepted.extend([(lease.batch, lease.ordinal)] if await queue.complete(lease) else [])
                return
            ended = await leases.settle_attempts(queue.pool, PRINCIPAL, [Report(lease, kind, 1, delay_ms=0)])
            accepted.extend((alike.batch, ordinal) for alike in ended for ordinal in alike.ordinals)

        async def work() -> None:
            while not done.is_set():
                batch = await leases.lease_jobs(
                    queue.pool, queue="default", limit=chance.randint(1, 20), worker="w", principal=PRINCIPAL,
                    lease_ms=chance.randint(3, 200), secret=uuid4(),
                )  # fmt: skip
                for lease in batch.lease_ids() if batch else ():
                    old.append(lease)
                    if chance.random() < 0.2:
                        await queue.start(lease)
                    if chance.random() < 0.8:
                        await settle(lease, chance.choice(KINDS))
                    if chance.random() < 0.3:
                        await settle(chance.choice(old), chance.choice(KINDS))
                await asyncio.sleep(0.001)

        async def sweep() -> None:
            while not done.is_set():
                await queue.expire()
                await leases.close_batches(queue.pool, None)
                # What backs off is made due at once: the clock is not what is tested here.
                await queue.pool.fetch(
                    "UPDATE quorra.ready SET run_at = now() WHERE job_id IN (SELECT job_id FROM quorra.ready "
                    "WHERE run_at > now() ORDER BY job_id FOR UPDATE SKIP LOCKED) RETURNING 1"
                )
                await asyncio.sleep(0.005)

        async def watch() -> None:
            while True:
                places = await queue.places()
                assert JOBS == len(places)
                assert all(len(place) == 1 for place in places.values())
                if all(place == ["ended"] for place in places.values()):
                    done.set()
                    return
                await asyncio.sleep(0.05)

        async with asyncio.timeout(SECONDS_MAX):
            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(WORKERS):
                        tasks.create_task(work())
                    for _ in range(2):
                        tasks.create_task(sweep())
                    tasks.create_task(watch())
            except* StorageUnavailable as group:
                raise AssertionError("a deadlock or a lost connection") from group

        rows = await queue.pool.fetch(
            "SELECT count(*) AS outcomes, count(DISTINCT (job_id, batch)) AS leases, "
            "count(*) FILTER (WHERE status = 'succeeded') AS successes FROM quorra.outcomes"
        )

    assert len(accepted) == len(set(accepted))
    assert rows[0]["outcomes"] == rows[0]["leases"]
    assert JOBS == rows[0]["successes"]
    assert len(old) > JOBS
