"""Leases: taken, marked started, renewed, settled, expired and closed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from quorra_server.domain.job import EndedLease, LeaseBatch, LeasedJob, LeaseId, Report, Settled
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.storage.database import Executor, Pool, column
from quorra_server.storage.statements import statement

LEASE_JOBS = statement("lease_jobs")
MARK_STARTED = statement("mark_started")
RENEW_LEASES = statement("renew_leases")
SETTLE_ATTEMPTS = statement("settle_attempts")
FIND_OUTCOMES = statement("find_outcomes")
LOCK_OVERDUE = statement("lock_overdue")
EXPIRE_LEASES = statement("expire_leases")
CLOSE_BATCHES = statement("close_batches")
CANCEL_HELD = statement("cancel_held")

OUTCOME_BY_NAME = {kind.value: kind for kind in OutcomeKind}
STATUS_BY_NAME = {status.value: status for status in JobStatus}


class Cursor(NamedTuple):
    """Where in the order of a queue a lease begins to look."""

    rank: int
    run_at: datetime
    job_id: UUID


HEAD = Cursor(-(2**63), datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


async def lease_jobs(
    executor: Executor,
    *,
    queue: str,
    limit: int,
    worker: str,
    principal: str,
    lease_ms: int,
    secret: UUID,
    types: Sequence[str] | None = None,
    delivery_is_start: bool = False,
    begin: Cursor = HEAD,
) -> LeaseBatch | None:
    """Lease the next due jobs of a queue as one batch, in order; None if there is none.

    Args:
        limit: At most so many jobs.
        secret: Random and new for each call; it makes the lease ids unguessable.
        types: Only jobs of these types; None for every type.
        delivery_is_start: Charge the attempt at once, for workers that do not report starts.
    """
    rows = await executor.fetch(
        LEASE_JOBS, queue, limit, types, worker, principal, lease_ms, secret, delivery_is_start, *begin
    )
    if not rows:
        return None
    jobs = [LeasedJob(*row[2:]) for row in map(tuple[Any, ...], rows)]
    jobs.sort(key=_ordinal)
    return LeaseBatch(
        batch=rows[0][0], leased_at_us=rows[0][1], secret=secret, queue=queue, lease_ms=lease_ms, jobs=jobs
    )


def _ordinal(job: LeasedJob) -> int:
    return job.ordinal


async def mark_started(executor: Executor, principal: str, starts: Sequence[tuple[LeaseId, int]]) -> None:
    """Note that runs started, each so many milliseconds ago. Leases that are over are passed by."""
    secrets = {lease.batch: lease.secret for lease, _ in starts}
    await executor.fetch(
        MARK_STARTED,
        list(secrets),
        list(secrets.values()),
        principal,
        [lease.batch for lease, _ in starts],
        [lease.ordinal for lease, _ in starts],
        [ago_ms for _, ago_ms in starts],
    )


async def renew_leases(executor: Executor, principal: str, secrets: dict[int, UUID], lease_ms: int) -> set[int]:
    """Extend lease batches (number -> secret) and return the ones that live on."""
    rows = await executor.fetch(RENEW_LEASES, list(secrets), list(secrets.values()), principal, lease_ms)
    return set(column(rows, "batch"))


async def settle_attempts(
    executor: Executor, principal: str, reports: Sequence[Report]
) -> dict[tuple[UUID, int], Settled]:
    """Record how attempts ended; reports that decided come back by (job, batch), the others are missing.

    Reports must name each lease once.
    """
    ordered = sorted(reports, key=_lease_order)
    secrets = {report.lease.batch: report.lease.secret for report in ordered}
    rows = await executor.fetch(
        SETTLE_ATTEMPTS,
        list(secrets),
        list(secrets.values()),
        principal,
        [report.lease.batch for report in ordered],
        [report.lease.ordinal for report in ordered],
        [report.lease.job_id for report in ordered],
        [report.kind.value for report in ordered],
        [report.run_ms for report in ordered],
        [report.result for report in ordered],
        [report.error for report in ordered],
        [report.error_kind for report in ordered],
        [report.delay_ms for report in ordered],
        [report.non_retryable for report in ordered],
    )
    by_lease = {(report.lease.job_id, report.lease.batch): report for report in ordered}
    settled = {}
    for job_id, batch, kind, status, retry_at, queue in rows:
        report = by_lease[job_id, batch]
        settled[job_id, batch] = Settled(
            lease=report.lease,
            kind=report.kind,
            accepted=True,
            queue=queue,
            status=_status_after(OUTCOME_BY_NAME[kind], status),
            run_at=retry_at,
        )
    return settled


def _lease_order(report: Report) -> tuple[int, int]:
    return report.lease.batch, report.lease.ordinal


def _status_after(kind: OutcomeKind, status: str | None) -> JobStatus:
    if status is not None:
        return STATUS_BY_NAME[status]
    return JobStatus.FAILED if kind is OutcomeKind.FAILED else JobStatus.PENDING


async def find_outcomes(executor: Executor, leases: Sequence[LeaseId]) -> dict[tuple[UUID, int], OutcomeKind]:
    """Say how leases ended, by (job, batch); live and unknown ones are missing."""
    rows = await executor.fetch(FIND_OUTCOMES, [lease.job_id for lease in leases], [lease.batch for lease in leases])
    return {(row["job_id"], row["batch"]): OUTCOME_BY_NAME[row["kind"]] for row in rows}


class ExpiredLease(NamedTuple):
    """A lease that ran out, and where its job went."""

    job_id: UUID
    batch: int
    queue: str
    started: bool
    is_dead: bool
    run_at: datetime | None


async def expire_leases(pool: Pool, *, limit: int) -> list[ExpiredLease]:
    """End overdue lease batches, at most `limit` of them, and put their jobs back.

    Two statements in one transaction: the second one's snapshot is newer than the first one's locks.
    """
    async with pool.transaction() as transaction:
        overdue = column(await transaction.fetch(LOCK_OVERDUE, limit), "batch")
        if not overdue:
            return []
        rows = await transaction.fetch(EXPIRE_LEASES, overdue)
    return [
        ExpiredLease(
            row["job_id"],
            row["batch"],
            row["queue"],
            row["started"],
            row["status"] == "dead",
            row["retry_at"],
        )
        for row in rows
    ]


async def close_batches(executor: Executor, batches: Sequence[int] | None) -> set[int]:
    """Remove lease batches all of whose members ended, of some or (None) of all; return the removed."""
    return set(column(await executor.fetch(CLOSE_BATCHES, batches), "batch"))


async def cancel_held(executor: Executor, job_ids: Sequence[UUID], reason: str | None) -> list[tuple[EndedLease, str]]:
    """Cancel those of some jobs that are leased; return the leases that ended, each with its queue."""
    rows = await executor.fetch(CANCEL_HELD, job_ids, reason)
    return [
        (
            EndedLease(LeaseId(row["batch"], row["ordinal"], row["job_id"], row["secret"]), "cancelled"),
            row["queue"],
        )
        for row in rows
    ]
