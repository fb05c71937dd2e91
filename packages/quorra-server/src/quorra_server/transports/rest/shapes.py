"""The JSON that clients send and get, as types."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from quorra_server.domain.job import Attempt, JobDetails, SubmittedJob
from quorra_server.domain.retry import Backoff
from quorra_server.domain.states import JobStatus
from quorra_server.services.purge import Purge
from quorra_server.storage.history import ENTRIES_DEFAULT

Moment = Annotated[datetime, Meta(tz=True)]


class BackoffBody(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How long to wait after a failed run: min(base * 2^(attempts-1), max) seconds unless `kind` says otherwise."""

    kind: str = "exponential"
    base_seconds: float = 2.0
    max_seconds: float = 3600.0
    jitter: float = 0.0


class JobBody(Struct, forbid_unknown_fields=True, gc=False):
    """A job to submit."""

    type: str
    payload: Raw
    id: str | None = None
    queue: str | None = None
    priority: int = 0
    delay_seconds: int | None = None
    run_at: Moment | None = None
    max_retries: int | None = None
    unique_key: str | None = None
    tags: list[str] = []
    backoff: BackoffBody | None = None
    timeout_seconds: float | None = None


class BatchBody(Struct, forbid_unknown_fields=True):
    """Jobs to submit, all or nothing."""

    jobs: list[JobBody]


class Submitted(Struct, omit_defaults=True, gc=False):
    """The answer to a submission."""

    id: UUID
    status: JobStatus
    run_at: datetime
    existing: bool = False

    @classmethod
    def of(cls, job: SubmittedJob) -> "Submitted":
        """Return the answer for a submitted job."""
        return cls(job.id, job.status, job.run_at, job.existing)


class SubmittedBatch(Struct):
    """The answers to a batch, in the order given."""

    jobs: list[Submitted]


class ImportedLine(Struct, omit_defaults=True, gc=False):
    """The answer to one line of an import that was recorded; the first line is 1."""

    line: int
    id: UUID
    status: JobStatus
    run_at: datetime
    existing: bool = False


class AttemptError(Struct):
    """What went wrong in one attempt."""

    attempt: int
    generation: int
    error: str
    kind: str | None
    at: datetime


class Progress(Struct):
    """What the handler last said of how far it is."""

    done: int | None
    total: int | None
    note: str | None


class Job(Struct):
    """A whole job."""

    id: str
    type: str
    payload: Raw
    queue: str
    priority: int
    status: JobStatus
    attempts: int
    deliveries: int
    generation: int
    max_retries: int
    timeout_seconds: float | None
    last_error: str | None
    result: Raw | None
    tags: list[str]
    unique_key: str | None
    backoff: Backoff | None
    created_at: datetime
    updated_at: datetime
    run_at: datetime
    leased_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    lease_expires_at: datetime | None
    leased_by: str | None
    dead_because: str | None
    errors: list[AttemptError] | UnsetType = UNSET
    progress: Progress | UnsetType = UNSET

    @classmethod
    def of(cls, job: JobDetails) -> "Job":
        """Return the JSON of a job."""
        return cls(
            id=str(job.id),
            type=job.type,
            payload=Raw(job.payload.encode()),
            queue=job.queue,
            priority=job.priority,
            status=job.status,
            attempts=job.attempts,
            deliveries=job.deliveries,
            generation=job.generation,
            max_retries=job.max_retries,
            timeout_seconds=job.timeout_ms / 1000 if job.timeout_ms else None,
            last_error=job.last_error,
            result=Raw(job.result.encode()) if job.result else None,
            tags=list(job.tags),
            unique_key=job.unique_key,
            backoff=job.backoff,
            created_at=job.created_at,
            updated_at=job.updated_at,
            run_at=job.run_at,
            leased_at=job.leased_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            lease_expires_at=job.lease_expires_at,
            leased_by=job.leased_by,
            dead_because=job.dead_because,
        )


def errors_of(attempts: Sequence[Attempt]) -> list[AttemptError]:
    """Return the errors among a job's attempts."""
    return [
        AttemptError(attempt.attempt, attempt.generation, attempt.error, attempt.error_kind, attempt.ended_at)
        for attempt in attempts
        if attempt.error is not None
    ]


class JobPage(Struct):
    """A page of jobs; `next_cursor` is null on the last one."""

    jobs: list[Job]
    next_cursor: str | None


class HistoryEntry(Struct):
    """A lease of a job and how it ended."""

    outcome: str
    attempt: int
    delivery: int
    generation: int
    worker: str
    leased_at: datetime | None
    started_at: datetime | None
    ended_at: datetime
    error: str | None
    error_kind: str | None
    reason: str | None
    late: bool

    @classmethod
    def of(cls, attempt: Attempt) -> "HistoryEntry":
        """Return the JSON of an attempt."""
        return cls(
            outcome=attempt.kind.value,
            attempt=attempt.attempt,
            delivery=attempt.delivery,
            generation=attempt.generation,
            worker=attempt.worker,
            leased_at=attempt.leased_at,
            started_at=attempt.started_at,
            ended_at=attempt.ended_at,
            error=attempt.error,
            error_kind=attempt.error_kind,
            reason=attempt.reason,
            late=attempt.late,
        )


class History(Struct):
    """Leases of a job, oldest first; `next_cursor` leads to those before them, and is null if there are none."""

    attempts: list[HistoryEntry]
    next_cursor: str | None


class LogEntry(Struct):
    """A line that a handler logged."""

    at: datetime
    level: str
    message: str


class Logs(Struct):
    """The log lines of a job, oldest first."""

    lines: list[LogEntry]


class ListQuery(Struct):
    """Which jobs to list."""

    status: JobStatus | None = None
    queue: str | None = None
    type: str | None = None
    tag: str | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    payload: str | None = None
    limit: int = 50
    cursor: str | None = None


class DeadQuery(Struct):
    """Which dead jobs to list."""

    queue: str | None = None
    type: str | None = None
    limit: int = 50
    cursor: str | None = None


class GetQuery(Struct):
    """Whether to wait until the job has ended, such as `30s`; at most 60 s."""

    wait: str | None = None


class HistoryQuery(Struct):
    """How many leases to read at most: the last ones, or the last ones before a cursor."""

    limit: int = ENTRIES_DEFAULT
    cursor: str | None = None


class CancelBody(Struct, forbid_unknown_fields=True):
    """Why an operator does this."""

    reason: str | None = None


class RetryBody(Struct, forbid_unknown_fields=True):
    """Nothing: a retry takes no fields."""


class FilterBody(Struct, forbid_unknown_fields=True):
    """Which jobs to change."""

    status: JobStatus | None = None
    queue: str | None = None
    type: str | None = None
    tag: str | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None


class RetryMatchingBody(Struct, forbid_unknown_fields=True):
    """Which jobs to retry; a dry run only counts them."""

    filter: FilterBody
    dry_run: bool = False


class CancelMatchingBody(RetryMatchingBody, forbid_unknown_fields=True):
    """Which jobs to cancel, and why; a dry run only counts them."""

    reason: str | None = None


class BulkReply(Struct):
    """How many jobs matched, and how many were changed."""

    matched: int
    changed: int
    dry_run: bool


class PatchBody(Struct, forbid_unknown_fields=True):
    """What to change of a waiting job."""

    run_at: Moment | None = None
    delay_seconds: int | None = None
    priority: int | None = None
    queue: str | None = None
    max_retries: int | None = None


class QueueCount(Struct):
    """How many jobs of a queue have a status."""

    queue: str
    status: JobStatus
    count: int


class QueueList(Struct):
    """Counts by queue and status; what is zero is left out."""

    queues: list[QueueCount]


class QueueDetails(Struct):
    """The figures of one queue."""

    queue: str
    counts: dict[str, int]
    oldest_waiting_seconds: float | None
    backoff: Backoff | None


class QueueBody(Struct, forbid_unknown_fields=True):
    """Settings of a queue; null means the default."""

    backoff: BackoffBody | None


class Purged(Struct, omit_defaults=True):
    """How many jobs were removed; `more` says that the time was over, and that repeating the request goes on."""

    purged: int
    more: bool = False

    @classmethod
    def of(cls, purge: Purge) -> "Purged":
        """Return the JSON of a purge."""
        return cls(purge.purged, purge.more)


class ReplayBody(Struct, forbid_unknown_fields=True):
    """Which dead jobs to replay, perhaps with another payload."""

    ids: list[str]
    payload: Raw | UnsetType = UNSET


class Replayed(Struct):
    """The jobs that were replayed."""

    replayed: int
    jobs: list[Job]


class PurgeDeadBody(Struct, forbid_unknown_fields=True):
    """Which dead jobs to remove: these, or all created before a moment."""

    ids: list[str] | None = None
    before: Moment | None = None


class Worker(Struct):
    """A live worker."""

    worker_id: str
    boot_id: str
    node: str
    host: str
    pid: int
    version: str
    slots: int
    running: int
    queues: list[str]
    types: list[str]
    labels: dict[str, str]
    started_at: datetime
    last_beat: datetime


class WorkerList(Struct):
    """Workers that were heard of lately."""

    workers: list[Worker]


class Failover(Struct):
    """What one server found after a failover; what was acknowledged from `lost_from` to `lost_until` may be lost."""

    system_identifier: str
    timeline: int
    node: str
    noticed_at: datetime
    lost_from: datetime | None
    lost_until: datetime | None
    lost_jobs: int
    lost_outcomes: int
    job_ids: list[UUID]


class FailoverList(Struct):
    """Failovers, the newest first; one entry for each server that noticed."""

    failovers: list[Failover]


class Health(Struct):
    """Whether the server can do its work, and if not, why."""

    status: str
    problems: list[str] = []


class Problem(Struct):
    """What is wrong and what to do next (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | UnsetType = UNSET
    errors: list[dict[str, Any]] | UnsetType = UNSET
