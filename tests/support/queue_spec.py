"""A queue in the words of its specification. Time is moved, never slept through."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import JobDetails, LeaseBatch, LeaseId, NewJob, Report
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.services.lease_ids import text_of
from quorra_server.storage import handover, history, jobs, leases, queues
from quorra_server.storage.database import Pool, PoolSettings
from quorra_server.storage.leases import ExpiredLease, TimedOutRun

from tests.support.pooler import is_pooled, through_pooler

PRINCIPAL = "key-of-the-test"
LEASE_LOST = "QR001"
LEASE_SECONDS = 30
TIMEOUT_GRACE_SECONDS = 5


class QueueSpec:
    """The store functions on one database, with a principal and defaults filled in."""

    def __init__(self, database_url: str, connections: int = 5) -> None:
        url, is_direct = through_pooler(database_url), not is_pooled()
        self.pool = Pool(PoolSettings(url, connections, 5, 20, prepared_statements=is_direct))

    async def __aenter__(self) -> "QueueSpec":
        await self.pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()

    async def submit(self, count: int = 1, **fields: Any) -> list[UUID]:
        """Submit jobs that differ only in their ids."""
        fields.setdefault("type", "task")
        fields.setdefault("payload", "{}")
        new = [NewJob(id=fields.get("id") or new_job_id(), **_without_id(fields)) for _ in range(count)]
        await jobs.submit_jobs(self.pool, new)
        return [job.id for job in new]

    async def submit_one(self, **fields: Any) -> UUID:
        return (await self.submit(1, **fields))[0]

    async def hand_over(
        self, count: int = 1, *, lease_ms: int = LEASE_SECONDS * 1000, **fields: Any
    ) -> tuple[list[UUID], LeaseBatch | None]:
        """Submit jobs to a worker that waits for them."""
        fields = {"type": "task", "payload": "{}", **fields}
        new = [NewJob(id=new_job_id(), **fields) for _ in range(count)]
        return [job.id for job in new], await self.hand_over_jobs(new, lease_ms)

    async def hand_over_jobs(self, new: Sequence[NewJob], lease_ms: int = LEASE_SECONDS * 1000) -> LeaseBatch | None:
        _, batch = await handover.submit_leased_jobs(
            self.pool, new, worker="worker-1", principal=PRINCIPAL, lease_ms=lease_ms, secret=uuid4()
        )
        return batch

    async def lease(self, limit: int = 10, *, queue: str = "default", **wishes: Any) -> LeaseBatch | None:
        wishes.setdefault("lease_ms", LEASE_SECONDS * 1000)
        return await leases.lease_jobs(
            self.pool, queue=queue, limit=limit, worker="worker-1", principal=PRINCIPAL, secret=uuid4(), **wishes
        )

    async def lease_one(self, **wishes: Any) -> LeaseId:
        batch = await self.lease(1, **wishes)
        assert batch is not None, "no job is due"
        return batch.lease_ids()[0]

    async def start(self, *leased: LeaseId) -> None:
        await leases.mark_started(self.pool, PRINCIPAL, [(lease, 0) for lease in leased])

    async def settle(self, lease: LeaseId, kind: OutcomeKind, *, by: str = PRINCIPAL, **fields: Any) -> bool:
        """Report an outcome and say whether it was accepted."""
        return await self.settle_all([Report(lease, kind, **fields)], by=by) == 1

    async def settle_all(self, reports: Sequence[Report], *, by: str = PRINCIPAL) -> int:
        """Report outcomes and say how many were accepted."""
        ended = await leases.settle_attempts(self.pool, by, reports)
        return sum(len(alike.ordinals) for alike in ended)

    async def succeed(self, lease: LeaseId, result: Any = None) -> bool:
        encoded = None if result is None else json.dumps(result)
        return await self.settle(lease, OutcomeKind.SUCCEEDED, run_ms=1, result=encoded)

    async def fail(self, lease: LeaseId, error: str = "it broke", **fields: Any) -> bool:
        return await self.settle(lease, OutcomeKind.FAILED, run_ms=1, error=error, **fields)

    async def enqueue(self, type: str = "task", payload: str = "{}", **options: Any) -> UUID:
        """Submit a job by the SQL function."""
        named = "".join(f", {name} => ${number}" for number, name in enumerate(options, start=3))
        rows = await self.pool.fetch(f"SELECT id FROM quorra.enqueue($1, $2{named})", type, payload, *options.values())
        found: UUID = rows[0]["id"]
        return found

    async def complete(self, lease: LeaseId, result: str | None = None) -> bool:
        """Report a success by the SQL function, and say whether it was accepted."""
        return await self._accepted("SELECT quorra.complete($1, $2, $3)", lease.job_id, text_of(lease), result)

    async def fail_in_sql(self, lease: LeaseId, error: str = "it broke", **options: Any) -> bool:
        """Report a failure by the SQL function, and say whether it was accepted."""
        named = "".join(f", {name} => ${number}" for number, name in enumerate(options, start=4))
        call = f"SELECT quorra.fail($1, $2, $3{named})"
        return await self._accepted(call, lease.job_id, text_of(lease), error, *options.values())

    async def _accepted(self, call: str, *arguments: object) -> bool:
        try:
            await self.pool.fetch(call, *arguments)
        except asyncpg.PostgresError as error:
            if error.sqlstate != LEASE_LOST:
                raise
            return False
        return True

    async def renew(self, lease: LeaseId, seconds: int = LEASE_SECONDS) -> bool:
        return lease.batch in await leases.renew_leases(
            self.pool, PRINCIPAL, {lease.batch: lease.secret}, seconds * 1000
        )

    async def expire(self) -> list[ExpiredLease]:
        return await leases.expire_leases(self.pool, limit=100)

    async def time_out(self) -> list[TimedOutRun]:
        return await leases.time_out_runs(self.pool, grace_ms=TIMEOUT_GRACE_SECONDS * 1000, limit=100)

    async def cancel(self, *job_ids: UUID) -> int:
        waiting = await jobs.cancel_waiting(self.pool, job_ids, "test")
        held = await leases.cancel_held(self.pool, job_ids, "test")
        return len(waiting) + len(held)

    async def fail_until_dead(self, **fields: Any) -> UUID:
        job_id = await self.submit_one(max_retries=0, **fields)
        await self.fail(await self.lease_one(queue=fields.get("queue", "default")))
        return job_id

    async def pass_time(self, seconds: float) -> None:
        """Move everything that is recorded back by so much, which is the same as waiting."""
        back = timedelta(seconds=seconds)
        for statement in (
            "UPDATE quorra.ready SET run_at = run_at - $1::interval RETURNING 1",
            "UPDATE quorra.leases SET expires_at = expires_at - $1::interval, leased_at = leased_at - $1::interval"
            " RETURNING 1",
        ):
            await self.pool.fetch(statement, back)

    async def job(self, job_id: UUID) -> JobDetails:
        found = await jobs.get_jobs(self.pool, [job_id])
        assert found, f"job {job_id} does not exist"
        return found[0]

    async def status_of(self, job_id: UUID) -> JobStatus:
        return (await self.job(job_id)).status

    async def history_of(self, job_id: UUID) -> list[str]:
        return [attempt.kind.value for attempt in await history.list_history(self.pool, job_id)]

    async def seconds_until_due(self, job_id: UUID) -> float:
        rows = await self.pool.fetch(
            "SELECT extract(epoch FROM run_at - now())::float8 AS s FROM quorra.ready WHERE job_id = $1",
            job_id,
        )
        return float(rows[0]["s"])

    async def counts(self, queue: str = "default") -> dict[JobStatus, int]:
        """Return the counts that are not zero."""
        found = (await queues.count_queues(self.pool)).get(queue, {})
        return {status: count for status, count in found.items() if count}

    async def places(self) -> dict[UUID, list[str]]:
        """Return where each job is; exactly one place each is what must hold."""
        rows = await self.pool.fetch(PLACES)
        return {row["id"]: row["places"] for row in rows}


def _without_id(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "id"}


# Written apart from the product's own queries, so that both can be wrong only in different ways.
PLACES = """
SELECT jobs.id, array_remove(ARRAY[
    CASE WHEN EXISTS (SELECT 1 FROM quorra.ready WHERE ready.job_id = jobs.id) THEN 'ready' END,
    CASE WHEN EXISTS (
        SELECT 1 FROM quorra.leases, unnest(leases.job_ids) AS member (id)
        WHERE member.id = jobs.id AND NOT EXISTS (
            SELECT 1 FROM quorra.outcomes o WHERE o.job_id = jobs.id AND o.batch = leases.batch)
    ) THEN 'held' END,
    CASE WHEN EXISTS (
        SELECT 1 FROM quorra.outcomes o
        WHERE o.job_id = jobs.id AND o.status IS NOT NULL AND o.replayed_at IS NULL
    ) THEN 'ended' END
], NULL) AS places
FROM quorra.jobs
"""
