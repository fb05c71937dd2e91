"""Jobs as producers and operators see them: submitted, read, listed, moved, cancelled, replayed, purged."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from quorra_server.domain.job import JobDetails, NewJob
from quorra_server.domain.retry import Backoff
from quorra_server.domain.states import HELD, WAITING, JobStatus
from quorra_server.storage.database import Executor, Row, column, shared, sparse
from quorra_server.storage.statements import statement

SUBMIT_JOBS = statement("submit_jobs")
SUBMIT_NAMED_JOBS = statement("submit_named_jobs")
GET_JOBS = statement("get_jobs")
FIND_ENDED = statement("find_ended")
LIST_JOBS = statement("list_jobs")
LIST_WAITING = statement("list_waiting")
LIST_HELD = statement("list_held")
LIST_ENDED = statement("list_ended")
CANCEL_WAITING = statement("cancel_waiting")
RETRY_WAITING = statement("retry_waiting")
RESCHEDULE_JOBS = statement("reschedule_jobs")
REPLAY_DEAD = statement("replay_dead")
REPLACE_PAYLOAD = statement("replace_payload")
PURGE_WAITING = statement("purge_waiting")
PURGE_DEAD = statement("purge_dead")

# Tags may hold anything printable; the unit separator is refused at the door.
TAG_SEPARATOR = "\x1f"


async def submit_jobs(executor: Executor, jobs: Sequence[NewJob]) -> list[datetime]:
    """Record jobs whose ids are new, and return when each of them is due, in the order given."""
    rows = await executor.fetch(SUBMIT_JOBS, *_columns(jobs))
    submitted_at: datetime = rows[0]["submitted_at"]
    return [_due(job, submitted_at) for job in jobs]


async def submit_named_jobs(executor: Executor, jobs: Sequence[NewJob]) -> dict[UUID, datetime]:
    """Record jobs whose ids their callers chose, and return when each new one of them is due.

    Ids that existed are missing from the reply: repeating is harmless.
    """
    if not jobs:
        return {}
    rows = await executor.fetch(SUBMIT_NAMED_JOBS, *_columns(jobs))
    submitted_at, created = rows[0]["submitted_at"], set(rows[0]["created"] or ())
    return {job.id: _due(job, submitted_at) for job in jobs if job.id in created}


def _columns(jobs: Sequence[NewJob]) -> tuple[Sequence[Any] | None, ...]:
    return (
        [job.id for job in jobs],
        shared([job.type for job in jobs]),
        [job.payload for job in jobs],
        shared([job.queue for job in jobs]),
        shared([job.priority for job in jobs]),
        shared([job.max_retries for job in jobs]),
        sparse([job.run_at for job in jobs]),
        sparse([job.delay_ms or None for job in jobs]),
        sparse([job.timeout_ms or None for job in jobs]),
        sparse([job.unique_key for job in jobs]),
        sparse([tags_text(job.tags) for job in jobs]),
        sparse([backoff_json(job.backoff) for job in jobs]),
    )


def _due(job: NewJob, submitted_at: datetime) -> datetime:
    """Say when a job is due, as its row has it."""
    if job.run_at is not None:
        return job.run_at.astimezone(UTC)
    return submitted_at + timedelta(milliseconds=job.delay_ms) if job.delay_ms else submitted_at


async def get_jobs(executor: Executor, job_ids: Sequence[UUID]) -> list[JobDetails]:
    """Read whole jobs, in the order asked for; unknown ids are left out."""
    rows = await executor.fetch(GET_JOBS, job_ids)
    found = {row["id"]: _details(row) for row in rows}
    return [found[job_id] for job_id in job_ids if job_id in found]


async def find_ended(executor: Executor, job_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of some jobs whose life is over."""
    return set(column(await executor.fetch(FIND_ENDED, job_ids), "job_id"))


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None means any.

    Attributes:
        payload: JSON text; matches jobs whose payload contains it.
    """

    status: JobStatus | None = None
    queue: str | None = None
    type: str | None = None
    tag: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    payload: str | None = None


class Position(NamedTuple):
    """Where a page ended: the next one begins behind it."""

    job_id: UUID
    batch: int
    ordinal: int


async def list_jobs(
    executor: Executor, wanted: JobFilter, *, limit: int, after: Position | None = None
) -> list[Position]:
    """Name the jobs that match, newest first (ended ones by when they ended).

    Each status reads the one table that holds it.
    """
    filters = (
        wanted.queue,
        wanted.type,
        wanted.tag,
        wanted.created_from,
        wanted.created_before,
        wanted.payload,
    )
    after_job = after.job_id if after else None
    if wanted.status is None:
        rows = await executor.fetch(LIST_JOBS, after_job, limit, *filters)
    elif wanted.status in WAITING:
        rows = await executor.fetch(LIST_WAITING, after_job, limit, *filters, wanted.status is JobStatus.FAILED)
    elif wanted.status in HELD:
        rows = await executor.fetch(LIST_HELD, after_job, limit, *filters, wanted.status is JobStatus.PROCESSING)
    else:
        batch, ordinal = (after.batch, after.ordinal) if after else (None, None)
        rows = await executor.fetch(LIST_ENDED, batch, limit, *filters, wanted.status.value, ordinal)
    return [Position(row["job_id"], row["batch"], row["ordinal"]) for row in rows]


async def cancel_waiting(executor: Executor, job_ids: Sequence[UUID], reason: str | None) -> dict[UUID, str]:
    """Cancel those of some jobs that wait; return their queues by id."""
    return _queues(await executor.fetch(CANCEL_WAITING, job_ids, reason))


async def retry_waiting(executor: Executor, job_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Let those of some jobs that wait for their time run now; return their queues by id."""
    return _queues(await executor.fetch(RETRY_WAITING, job_ids))


async def replay_dead(executor: Executor, job_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Give those of some jobs that are dead a new life; return their queues by id."""
    return _queues(await executor.fetch(REPLAY_DEAD, job_ids))


async def replace_payload(executor: Executor, job_ids: Sequence[UUID], payload: str) -> None:
    """Give jobs another payload (JSON text)."""
    await executor.fetch(REPLACE_PAYLOAD, job_ids, payload)


async def reschedule_jobs(
    executor: Executor,
    job_ids: Sequence[UUID],
    *,
    run_at: datetime | None = None,
    delay_ms: int | None = None,
    priority: int | None = None,
    queue: str | None = None,
    max_retries: int | None = None,
) -> dict[UUID, str]:
    """Change those of some jobs that wait; return their queues by id. None leaves a field as it is.

    `delay_ms` counts from the database's now, and is only looked at without `run_at`.
    """
    return _queues(await executor.fetch(RESCHEDULE_JOBS, job_ids, run_at, priority, queue, max_retries, delay_ms))


async def purge_waiting(executor: Executor, queue: str, *, limit: int) -> int:
    """Remove at most `limit` waiting jobs of a queue and return how many went."""
    return len(await executor.fetch(PURGE_WAITING, queue, limit))


async def purge_dead(executor: Executor, job_ids: Sequence[UUID]) -> int:
    """Remove those of some jobs that are dead and return how many went."""
    return len(await executor.fetch(PURGE_DEAD, job_ids))


def tags_text(tags: Sequence[str]) -> str | None:
    """Return tags as a statement takes them; None if there are none."""
    return TAG_SEPARATOR.join(tags) if tags else None


def backoff_json(backoff: Backoff | None) -> str | None:
    """Return a back-off as the JSON text that `quorra.retry_delay` reads."""
    return json.dumps(asdict(backoff)) if backoff else None


def backoff_from_json(text: str | None) -> Backoff | None:
    """Return the back-off that was stored as JSON text."""
    return Backoff(**json.loads(text)) if text else None


def _queues(rows: Sequence[Row]) -> dict[UUID, str]:
    return {row["job_id"]: row["queue"] for row in rows}


def _details(row: Row) -> JobDetails:
    fields: dict[str, Any] = dict(row.items())
    fields["status"] = JobStatus(fields["status"])
    fields["tags"] = tuple(fields["tags"] or ())
    fields["backoff"] = backoff_from_json(fields["backoff"])
    return JobDetails(**fields)
