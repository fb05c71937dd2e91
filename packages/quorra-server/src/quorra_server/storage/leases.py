"""Leases: taken, marked started, renewed, settled, expired and closed."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import chain, count, starmap
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.job import EPOCH, EndedLease, LeaseBatch, LeasedJob, LeaseId, Report
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.storage.database import Executor, KeyTaken, Pool, Row, array_text, column, sparse, translate
from quorra_server.storage.statements import statement

LEASE_JOBS = statement("lease_jobs")
LOCK_WAITING = statement("lock_waiting")
PARK_WAITING = statement("park_waiting")
MARK_STARTED = statement("mark_started")
RENEW_LEASES = statement("renew_leases")
SETTLE_ATTEMPTS = statement("settle_attempts")
FIND_OUTCOMES = statement("find_outcomes")
LOCK_OVERDUE = statement("lock_overdue")
EXPIRE_LEASES = statement("expire_leases")
TIME_OUT_RUNS = statement("time_out_runs")
FIND_TIMED_BATCHES = statement("find_timed_batches")
EXTEND_RUN = statement("extend_run")
CLOSE_BATCHES = statement("close_batches")
CANCEL_HELD = statement("cancel_held")

# Of the rows of `lease_jobs`: those of jobs, from the first on, and those of the batch's members, each an array.
JOB_COLUMNS = ("id", "payload", "created_at_us", "type", "priority", "timeout_ms")
MEMBER_COLUMNS = ("member_ids", "run_ats_us", "attempts", "deliveries", "generations", "max_retries")

# One member of a lease batch: the batch's number and the member's place in it.
Member = tuple[int, int]

OUTCOME_BY_NAME = {kind.value: kind for kind in OutcomeKind}
STATUS_BY_NAME = {status.value: status for status in JobStatus}

# `lease_jobs` for one worker: takes an executor, and the rest by name.
Take = Callable[..., Awaitable[LeaseBatch | None]]


class Cursor(NamedTuple):
    """Where in the order of a queue a lease begins to look."""

    rank: int
    run_at: datetime
    job_id: UUID

    @classmethod
    def at(cls, job: LeasedJob, back: timedelta = timedelta(0)) -> "Cursor":
        """Return the place of a job in the order of its queue, or one so much earlier."""
        run_at = EPOCH + timedelta(microseconds=job.run_at_us) - back
        return cls(-job.priority, run_at, UUID(int=0) if back else job.job_id)


class EndedMembers(NamedTuple):
    """Members of one lease batch whose reports decided, and what all of them came to.

    Attributes:
        status: How the life of the jobs ended; None if they run again.
        retry_at: When they run again.
    """

    batch: int
    kind: OutcomeKind
    status: JobStatus | None
    retry_at: datetime | None
    queue: str
    ordinals: Sequence[int]


# A lease that never was: batch numbers begin above zero.
NO_LEASE = LeaseId(0, 1, UUID(int=0).hex, UUID(int=0))

HEAD = Cursor(-(2**63), EPOCH, UUID(int=0))


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
    of_batch = next(row for row in rows if row["batch"] is not None)
    jobs = _jobs([row for row in rows if row is not of_batch], of_batch)
    if not jobs:
        return None
    batch, leased_at_us = of_batch["batch"], of_batch["leased_at_us"]
    return LeaseBatch(batch=batch, leased_at_us=leased_at_us, secret=secret, queue=queue, lease_ms=lease_ms, jobs=jobs)


def _jobs(rows: Sequence[Row], of_batch: Row) -> list[LeasedJob]:
    """Return the jobs of a batch in its order: of each what its own row says, and what the batch says of it."""
    ids, *traits = (of_batch[name] for name in MEMBER_COLUMNS)
    members = dict(zip(ids, zip(count(1), *traits, strict=False), strict=True))
    jobs = list(starmap(LeasedJob, [row[: len(JOB_COLUMNS)] + members[row[0]] for row in rows]))
    jobs.sort(key=attrgetter("ordinal"))
    return jobs


async def try_lease(transaction: Executor, take: Take, *, limit: int, begin: Cursor = HEAD) -> Exception | None:
    """Lease jobs and undo it at once, in a transaction that goes on; return the bug that was met, or None."""
    bug = None
    await transaction.fetch("SAVEPOINT trial")
    try:
        await take(transaction, limit=limit, begin=begin)
    except Exception as error:
        if isinstance(translate(error), QuorraError):
            raise
        bug = error
    await transaction.fetch("ROLLBACK TO SAVEPOINT trial")
    return bug


async def lock_waiting(
    transaction: Executor, *, queue: str, limit: int, types: Sequence[str] | None = None
) -> list[Cursor]:
    """Lock the jobs that a lease would take next until the transaction ends; return their places in order."""
    return list(starmap(Cursor, await transaction.fetch(LOCK_WAITING, queue, limit, types)))


async def park_waiting(executor: Executor, job_ids: Sequence[UUID], parked_ms: int) -> None:
    """Put due jobs off for so long; the rest stays as it is."""
    await executor.fetch(PARK_WAITING, job_ids, parked_ms)


async def mark_started(executor: Executor, principal: str, starts: Sequence[tuple[LeaseId, int]]) -> None:
    """Note that runs started, each so many milliseconds ago. Leases that are over are passed by."""
    for part in _by_secret(starts):
        secrets = {lease.batch: lease.secret for lease, _ in part}
        await executor.fetch(
            MARK_STARTED,
            list(secrets),
            list(secrets.values()),
            principal,
            [lease.batch for lease, _ in part],
            [lease.ordinal for lease, _ in part],
            [ago_ms for _, ago_ms in part],
        )


def _by_secret(starts: Sequence[tuple[LeaseId, int]]) -> list[Sequence[tuple[LeaseId, int]]]:
    """Split so that each part names one secret for each batch, as the statement needs it.

    Starts of many callers share a statement: a guessed secret must neither ride along with the right one nor spoil it.
    """
    secrets: dict[int, UUID] = {}
    alike = [start for start in starts if secrets.setdefault(start[0].batch, start[0].secret) == start[0].secret]
    if len(alike) == len(starts):
        return [starts]
    others = [start for start in starts if secrets[start[0].batch] != start[0].secret]
    return [alike, *_by_secret(others)]


async def renew_leases(executor: Executor, principal: str, secrets: dict[int, UUID], lease_ms: int) -> set[int]:
    """Extend lease batches (number -> secret) and return the ones that live on."""
    rows = await executor.fetch(RENEW_LEASES, list(secrets), list(secrets.values()), principal, lease_ms)
    return set(column(rows, "batch"))


async def settle_attempts(executor: Executor, principal: str, reports: Sequence[Report]) -> list[EndedMembers]:
    """Record how attempts ended; members of a batch that ended alike come back together, refused reports not at all.

    Reports must name each member of a batch once. They may name a batch with several secrets: reports of many callers
    share a statement, and a guessed secret must neither ride along with the right one nor spoil it.

    Hardly any report comes second, and an insert that expects it costs each outcome a look and a record more. So the
    statement fails as a whole when one does; then those that came second are taken out, and the others sent again.
    """
    while reports:
        try:
            return await _settle(executor, principal, reports)
        except KeyTaken:
            ended = await find_outcomes(executor, [report.lease for report in reports])
            left = [report for report in reports if report.lease[:2] not in ended]
            if len(left) == len(reports):
                raise
            reports = left
    return []


async def _settle(executor: Executor, principal: str, reports: Sequence[Report]) -> list[EndedMembers]:
    by_batch: dict[tuple[int, int], list[Report]] = {}
    for report in reports:
        by_batch.setdefault((report.lease.batch, report.lease.secret.int), []).append(report)
    reports = list(chain.from_iterable(by_batch.values()))
    kinds = [report.kind for report in reports]
    non_retryables = [report.non_retryable for report in reports]
    rows = await executor.fetch(
        SETTLE_ATTEMPTS,
        [batch for batch, _ in by_batch],
        [UUID(int=secret) for _, secret in by_batch],
        list(map(len, by_batch.values())),
        principal,
        array_text([report.lease.ordinal for report in reports]),
        array_text([report.lease.job_hex for report in reports]),
        None if kinds.count(OutcomeKind.SUCCEEDED) == len(kinds) else kinds,
        array_text([report.run_ms for report in reports]),
        sparse([report.result for report in reports]),
        sparse([report.error for report in reports]),
        sparse([report.error_kind for report in reports]),
        sparse([report.delay_ms for report in reports]),
        non_retryables if True in non_retryables else None,
    )
    return [
        EndedMembers(
            batch, OUTCOME_BY_NAME[kind], None if status is None else STATUS_BY_NAME[status], retry_at, queue, ordinals
        )
        for batch, kind, status, retry_at, queue, ordinals in rows
    ]


async def try_settling(executor: Executor) -> None:
    """Settle a report of a lease that never was, which changes nothing; raises what every report would meet."""
    await _settle(executor, "", [Report(NO_LEASE, OutcomeKind.SUCCEEDED)])


async def find_outcomes(executor: Executor, leases: Sequence[LeaseId]) -> dict[Member, OutcomeKind]:
    """Say how leases ended, by (batch, ordinal); live and unknown ones are missing."""
    rows = await executor.fetch(FIND_OUTCOMES, [lease.job_id for lease in leases], [lease.batch for lease in leases])
    return {(row["batch"], row["ordinal"]): OUTCOME_BY_NAME[row["kind"]] for row in rows}


class ExpiredLease(NamedTuple):
    """A lease that ran out, and where its job went."""

    lease: LeaseId
    queue: str
    started: bool
    is_dead: bool
    run_at: datetime | None


async def expire_leases(
    pool: Pool, *, limit: int, batches: Sequence[int] | None = None, besides: Sequence[int] = ()
) -> list[ExpiredLease]:
    """End overdue lease batches, at most `limit` of them, and put their jobs back.

    Two statements in one transaction: the second one's snapshot is newer than the first one's locks.

    Args:
        batches: Only these. With none of them both statements run all the same, and raise what every batch would meet.
        besides: Not these.
    """
    async with pool.transaction() as transaction:
        overdue = column(await transaction.fetch(LOCK_OVERDUE, limit, batches, besides), "batch")
        if not overdue and batches is None:
            return []
        rows = await transaction.fetch(EXPIRE_LEASES, overdue)
    return [
        ExpiredLease(
            LeaseId(row["batch"], row["ordinal"], row["job_id"].hex, row["secret"]),
            row["queue"],
            row["started"],
            row["status"] == "dead",
            row["retry_at"],
        )
        for row in rows
    ]


async def find_overdue(executor: Executor, *, limit: int, besides: Sequence[int]) -> list[int]:
    """Return overdue lease batches that nobody works on, at most `limit` of them, besides some."""
    return column(await executor.fetch(LOCK_OVERDUE, limit, None, besides), "batch")


class TimedOutRun(NamedTuple):
    """A run that was past its timeout, and where its job went: `run_at` is None when it is dead."""

    lease: LeaseId
    queue: str
    run_at: datetime | None


async def time_out_runs(
    executor: Executor,
    *,
    grace_ms: int,
    limit: int,
    batches: Sequence[int] | None = None,
    besides: Sequence[int] = (),
) -> list[TimedOutRun]:
    """End at most `limit` runs that are past their timeout by `grace_ms`; the rest of their batches lives on.

    Args:
        batches: Only runs of these. With none of them the statement raises what every run would meet.
        besides: No runs of these.
    """
    rows = await executor.fetch(TIME_OUT_RUNS, grace_ms, limit, batches, besides)
    return [
        TimedOutRun(
            LeaseId(row["batch"], row["ordinal"], row["job_id"].hex, row["secret"]),
            row["queue"],
            row["retry_at"],
        )
        for row in rows
    ]


async def find_timed_batches(executor: Executor, *, besides: Sequence[int]) -> list[int]:
    """Return the lease batches in which a run can be past its timeout, besides some."""
    return column(await executor.fetch(FIND_TIMED_BATCHES, besides), "batch")


async def extend_run(executor: Executor, principal: str, lease: LeaseId, extra_ms: int) -> None:
    """Let a run take so much longer than its timeout, in all; repeating is harmless, a lease that is over stays so."""
    await executor.fetch(EXTEND_RUN, lease.batch, lease.secret, principal, lease.ordinal, extra_ms)


async def close_batches(executor: Executor, batches: Sequence[int] | None) -> set[int]:
    """Remove lease batches all of whose members ended, of some or (None) of all; return the removed."""
    return set(column(await executor.fetch(CLOSE_BATCHES, batches), "batch"))


async def cancel_held(executor: Executor, job_ids: Sequence[UUID], reason: str | None) -> list[tuple[EndedLease, str]]:
    """Cancel those of some jobs that are leased; return the leases that ended, each with its queue."""
    rows = await executor.fetch(CANCEL_HELD, job_ids, reason)
    return [
        (
            EndedLease(LeaseId(row["batch"], row["ordinal"], row["job_id"].hex, row["secret"]), "cancelled"),
            row["queue"],
        )
        for row in rows
    ]
