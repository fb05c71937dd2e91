"""Submissions that are leased by the commit that records them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from quorra_server.domain.job import EPOCH, LeaseBatch, LeasedJob, NewJob
from quorra_server.storage.database import Executor, shared, sparse
from quorra_server.storage.jobs import backoff_json, tags_text
from quorra_server.storage.statements import statement

SUBMIT_LEASED_JOBS = statement("submit_leased_jobs")

MICROSECOND = timedelta(microseconds=1)


async def submit_leased_jobs(
    executor: Executor, jobs: Sequence[NewJob], *, worker: str, principal: str, lease_ms: int, secret: UUID
) -> tuple[datetime, LeaseBatch | None]:
    """Record jobs and lease them as one batch; without a batch if others of their queue are due, which come first.

    Args:
        jobs: New, of one queue, due at once, and without keys.
        secret: Random and new for each call; it makes the lease ids unguessable.

    Returns:
        When they were recorded, which is when they are due, and their leases.
    """
    line = sorted(jobs, key=_rank)
    queue = line[0].queue
    rows = await executor.fetch(
        SUBMIT_LEASED_JOBS,
        [job.id for job in line],
        shared([job.type for job in line]),
        [job.payload for job in line],
        queue,
        shared([job.priority for job in line]),
        shared([job.max_retries for job in line]),
        sparse([job.timeout_ms or None for job in line]),
        sparse([tags_text(job.tags) for job in line]),
        sparse([backoff_json(job.backoff) for job in line]),
        worker,
        principal,
        lease_ms,
        secret,
    )
    submitted_at, batch = rows[0]
    if batch is None:
        return submitted_at, None
    now_us = (submitted_at - EPOCH) // MICROSECOND
    leased = [_leased(job, ordinal, now_us) for ordinal, job in enumerate(line, start=1)]
    return submitted_at, LeaseBatch(
        batch=batch, secret=secret, queue=queue, leased_at_us=now_us, lease_ms=lease_ms, jobs=leased
    )


def _rank(job: NewJob) -> int:
    return -job.priority


def _leased(job: NewJob, ordinal: int, now_us: int) -> LeasedJob:
    """Return a new job as a lease would return it."""
    return LeasedJob(
        id=str(job.id),
        ordinal=ordinal,
        payload=job.payload,
        run_at_us=now_us,
        created_at_us=now_us,
        type=job.type,
        priority=job.priority,
        attempts=0,
        deliveries=1,
        generation=1,
        max_retries=job.max_retries,
        timeout_ms=job.timeout_ms,
    )
