"""What travels between the rooms: a job as submitted, as leased and as read back, and the reports on it."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from quorra_server.domain.retry import Backoff
from quorra_server.domain.states import JobStatus, OutcomeKind

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NewJob(Struct, frozen=True, gc=False):
    """A validated submission.

    Attributes:
        payload: JSON text exactly as it was sent.
        delay_ms: Milliseconds from the database's now; ignored if `run_at` is given.
        timeout_ms: Longest run; 0 means no limit.
        request_key: The caller's `Idempotency-Key`; a repetition answers with the first job.
        unique_key: At most one live job has it.
        id_is_callers: The caller chose the id, so it may exist already.
    """

    id: UUID
    type: str
    payload: str
    queue: str = "default"
    priority: int = 0
    max_retries: int = 3
    delay_ms: int = 0
    run_at: datetime | None = None
    timeout_ms: int = 0
    tags: tuple[str, ...] = ()
    backoff: Backoff | None = None
    unique_key: str | None = None
    request_key: str | None = None
    id_is_callers: bool = False


class SubmittedJob(NamedTuple):
    """The answer to one submission."""

    id: UUID
    status: JobStatus
    run_at: datetime
    existing: bool = False


class LeaseId(NamedTuple):
    """The right to report on one run, as its parts.

    On the wire it is one opaque string; see `services/lease_ids.py`. The job is kept as text: most reports never need
    it, and reading a UUID costs more than all the rest.
    """

    batch: int
    ordinal: int
    job_hex: str
    secret: UUID

    @property
    def job_id(self) -> UUID:
        """The job that is leased."""
        return UUID(self.job_hex)


class LeasedJob(Struct, frozen=True, gc=False):
    """One member of a lease batch: what its row says, then its place in the batch. Times are microseconds since 1970.

    Attributes:
        id: As it travels: to make a UUID of it, and text of that, takes time that hardly any job has use for.
    """

    id: str
    payload: str
    created_at_us: int
    type: str
    priority: int
    timeout_ms: int
    ordinal: int
    run_at_us: int
    attempts: int
    deliveries: int
    generation: int
    max_retries: int

    @property
    def job_id(self) -> UUID:
        """The id as the rest of the server has it."""
        return UUID(self.id)

    @property
    def traits(self) -> tuple[object, ...]:
        """What many jobs of a batch have in common."""
        return (
            self.type,
            self.priority,
            self.attempts,
            self.deliveries,
            self.generation,
            self.max_retries,
            self.timeout_ms,
        )


@dataclass(frozen=True, slots=True)
class LeaseBatch:
    """Jobs leased together: they share an expiry and a secret, each has its own lease id.

    Attributes:
        arrived_at: When it came from the database, on this process's monotonic clock.
    """

    batch: int
    secret: UUID
    queue: str
    leased_at_us: int
    lease_ms: int
    jobs: list[LeasedJob]
    checkpoints: dict[UUID, str] = field(default_factory=dict)
    arrived_at: float = field(default_factory=time.monotonic)

    @property
    def left_ms(self) -> int:
        """How much of the lease is left at most."""
        return max(0, self.lease_ms - int((time.monotonic() - self.arrived_at) * 1000))

    def lease_ids(self) -> list[LeaseId]:
        """Return the right to report on each job."""
        return [LeaseId(self.batch, job.ordinal, job.id.replace("-", ""), self.secret) for job in self.jobs]


class Report(Struct, frozen=True, gc=False):
    """What a worker says of one lease.

    Attributes:
        run_ms: How long the run took on the worker's monotonic clock; None if it never started.
        delay_ms: Until the next run: `retry_after` of a failure (None means the back-off), the length of a
            snooze, or the pause of a release.
        non_retryable: A failure that no further run can mend.
    """

    lease: LeaseId
    kind: OutcomeKind
    run_ms: int | None = None
    result: str | None = None
    error: str | None = None
    error_kind: str | None = None
    delay_ms: int | None = None
    non_retryable: bool = False


class Settled(NamedTuple):
    """What became of one report.

    Attributes:
        accepted: The report decided how the attempt ended.
        status: Where the job is now, if the report was accepted.
        stands: Otherwise the outcome that stands, or None if the lease is not known at all.
        run_at: When the job goes again, if it does.
    """

    lease: LeaseId
    kind: OutcomeKind
    accepted: bool
    queue: str | None = None
    status: JobStatus | None = None
    run_at: datetime | None = None
    stands: OutcomeKind | None = None

    @property
    def is_repeat(self) -> bool:
        """Say whether the lease was ended before by a report of the same kind."""
        return self.stands is not None and self.stands is self.kind


class EndedLease(NamedTuple):
    """A lease that somebody else ended: its run should stop."""

    lease: LeaseId
    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One entry of a job's history: a lease and how it ended."""

    kind: OutcomeKind
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


@dataclass(frozen=True, slots=True)
class JobDetails:
    """A job as every read shows it."""

    id: UUID
    type: str
    payload: str
    queue: str
    priority: int
    status: JobStatus
    attempts: int
    deliveries: int
    generation: int
    max_retries: int
    timeout_ms: int
    last_error: str | None
    result: str | None
    tags: tuple[str, ...]
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
