"""The queue of tests: keeps jobs in memory and answers a client as a server would, on a clock that the test moves."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp
from quorra_proto.v1 import quorra_pb2 as pb

from quorra_worker_sdk.client import TERMINAL
from quorra_worker_sdk.endings import Ending, Success
from quorra_worker_sdk.errors import IllegalTransition, JobNotFound, KeyReused, WaitTimedOut
from quorra_worker_sdk.testing_bounds import check_batch, check_id, check_job, check_reason

QUEUE_DEFAULT = "default"
MAX_RETRIES_DEFAULT = 3
BACKOFF_DEFAULT = pb.Backoff(kind="exponential", base_seconds=2.0, max_seconds=3600.0)
# As a server has it: past this every rule is at its longest delay, and the power cannot overflow.
EXPONENT_MAX = 62


class TestClock:
    """The time of a test's queue; it stands still until it is moved."""

    __test__ = False

    def __init__(self, now: datetime | None = None) -> None:
        """Take when it begins; now by default."""
        self.now = now or datetime.now(UTC)
        self._followers: list[Callable[[], None]] = []

    def advance(self, by: timedelta) -> None:
        """Move on; what becomes due runs with the next `drain`."""
        if by < timedelta(0):
            raise ValueError("time does not run backwards; give a positive timedelta")
        self.now += by
        for follower in self._followers:
            follower()

    def move_to(self, moment: datetime) -> None:
        """Move on to a moment, which must have an offset from UTC."""
        self.advance(moment - self.now)

    def call_when_moved(self, follower: Callable[[], None]) -> None:
        """Call something after each move."""
        self._followers.append(follower)


@dataclass(slots=True)
class TestJob:
    """A job of the queue of a test.

    Attributes:
        payload: Decoded from the JSON that travelled.
        errors: One for each failed attempt.
        reports: What its handler said: progress, checkpoints and log lines, as they travel.
    """

    __test__ = False

    id: str
    type: str
    payload: Any
    queue: str
    priority: int
    run_at: datetime
    created_at: datetime
    max_retries: int
    unique_key: str
    tags: tuple[str, ...]
    spec: pb.JobSpec = field(repr=False)
    status: str = "pending"
    attempts: int = 0
    deliveries: int = 0
    generation: int = 1
    result: Any = None
    errors: list[str] = field(default_factory=list)
    reports: list[pb.Reports] = field(default_factory=list, repr=False)
    checkpoint: bytes = field(default=b"", repr=False)
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Say whether its life has ended."""
        return self.status in TERMINAL


class TestQueue:
    """Jobs in memory, in the order of their submission."""

    __test__ = False

    def __init__(self, clock: TestClock) -> None:
        """Begin with no jobs."""
        self.clock = clock
        self.jobs: dict[str, TestJob] = {}
        self._live: dict[str, TestJob] = {}
        # The job of each idempotency key, and whether it was there before the key.
        self._requests: dict[str, tuple[TestJob, bool]] = {}
        self._numbers = itertools.count()
        clock.call_when_moved(self._end_back_offs)

    def answer(self, method: str, request: Any) -> Any:
        """Answer a call of a client, or raise the error that a server would."""
        if method == "SubmitJob":
            check_job(request.job, "job.", self.clock.now, request.idempotency_key)
            return pb.SubmitJobResponse(job=self._submit([request.job], request.idempotency_key)[0])
        if method == "SubmitJobs":
            check_batch(request.jobs, self.clock.now)
            return pb.SubmitJobsResponse(jobs=self._submit(request.jobs))
        job = self._found(request.id)
        if method == "GetJob" and request.wait_ms and not job.is_over:
            raise WaitTimedOut(f"job {job.id} is {job.status}: nothing runs before the test calls drain()")
        if method == "CancelJob":
            check_reason(request.reason)
            self._cancel(job)
        elif method == "RetryJob":
            self._retry(job)
        elif method != "GetJob":
            raise NotImplementedError(f"{method} is not answered in tests; use a real server")
        return _details(job)

    def next_due(self, *, ever: bool) -> TestJob | None:
        """Return the job that a worker would get next; with `ever`, time moves on to it if none is due now."""
        waiting = self._live.values()
        due = [job for job in waiting if job.run_at <= self.clock.now]
        if due:
            return min(due, key=lambda job: (-job.priority, job.run_at, job.id))
        if not ever or not waiting:
            return None
        job = min(waiting, key=lambda job: (job.run_at, -job.priority, job.id))
        self.clock.move_to(job.run_at)
        return job

    def lease(self, job: TestJob) -> pb.Job:
        """Start an attempt, and return the job as it travels to a worker."""
        job.status = "processing"
        job.attempts += 1
        job.deliveries += 1
        return pb.Job(
            id=job.id, type=job.type, payload=job.spec.payload, priority=job.priority, attempts=job.attempts - 1,
            max_retries=job.max_retries, run_at=_time(job.run_at), leased_at=_time(self.clock.now),
            created_at=_time(job.created_at), queue=job.queue, lease_id=uuid4().hex, lease_expires_in_ms=30_000,
            generation=job.generation, deliveries=job.deliveries, timeout_ms=job.spec.timeout_ms,
            checkpoint=job.checkpoint,
        )  # fmt: skip

    def say(self, job: TestJob, reports: pb.Reports) -> None:
        """Keep what a handler said."""
        job.reports.append(reports)
        for checkpoint in reports.checkpoints:
            job.checkpoint = checkpoint.value

    def settle(self, job: TestJob, ending: Ending) -> None:
        """End an attempt as a server would."""
        if isinstance(ending, Success):
            job.result = json.loads(ending.result) if ending.result else None
            self._finish(job, "succeeded")
        elif isinstance(ending, pb.Cancelled):
            self._finish(job, "cancelled")
        elif isinstance(ending, pb.Failed):
            self._fail(job, ending)
        else:
            job.attempts -= 1
            job.status = "pending"
            job.run_at = self.clock.now + timedelta(milliseconds=ending.delay_ms)

    def _submit(self, specs: Sequence[pb.JobSpec], idempotency_key: str = "") -> list[pb.SubmittedJob]:
        """Record jobs, all or none: whatever is refused is so before the first one is recorded."""
        firsts = _firsts(specs)
        existing = {first: self._existing(specs[first], idempotency_key) for first in dict.fromkeys(firsts)}
        answers: list[pb.SubmittedJob] = []
        for position, first in enumerate(firsts):
            if first == position:
                answers.append(self._record(specs[first], existing[first], idempotency_key))
            else:
                answers.append(_as_existing(answers[first]))
        return answers

    def _existing(self, spec: pb.JobSpec, idempotency_key: str) -> TestJob | None:
        job, was_there = self._requests.get(idempotency_key) or (self.jobs.get(spec.id.lower()), False)
        if job is None:
            return self._holder(spec.unique_key)
        # A first try that was merged for its unique key, which takes any work, is repeated so.
        may_differ = was_there and spec.unique_key and spec.unique_key == job.unique_key
        if not may_differ and _work(job.spec) != _work(spec):
            raise KeyReused(
                f"{idempotency_key or spec.id} belongs to job {job.id}, which has another type, queue or payload",
                field="id" if job.id == spec.id.lower() else "Idempotency-Key",
            )
        return job

    def _record(self, spec: pb.JobSpec, existing: TestJob | None, idempotency_key: str) -> pb.SubmittedJob:
        # An earlier job of the batch may have the unique key by now.
        known = existing or self._holder(spec.unique_key)
        job = known or self._new(spec)
        if idempotency_key:
            self._requests.setdefault(idempotency_key, (job, known is not None))
        return pb.SubmittedJob(id=job.id, status=job.status, run_at=_time(job.run_at), existing=known is not None)

    def _holder(self, unique_key: str) -> TestJob | None:
        """Return the live job that has a unique key; none has the empty one."""
        return next((job for job in self._live.values() if unique_key and job.unique_key == unique_key), None)

    def _new(self, spec: pb.JobSpec) -> TestJob:
        now = self.clock.now
        due = spec.run_at.ToDatetime(tzinfo=UTC) if spec.HasField("run_at") else now
        job = TestJob(
            # Ids grow, as those of a server do.
            id=spec.id.lower() or str(UUID(int=0x7 << 76 | 0x2 << 62 | next(self._numbers))),
            type=spec.type,
            payload=json.loads(spec.payload),
            queue=spec.queue or QUEUE_DEFAULT,
            priority=spec.priority,
            run_at=due + timedelta(milliseconds=spec.delay_ms),
            created_at=now,
            max_retries=spec.max_retries if spec.HasField("max_retries") else MAX_RETRIES_DEFAULT,
            unique_key=spec.unique_key,
            tags=tuple(spec.tags),
            spec=spec,
        )
        self.jobs[job.id] = self._live[job.id] = job
        return job

    def _found(self, job_id: str) -> TestJob:
        check_id(job_id)
        job = self.jobs.get(job_id.lower())
        if job is None:
            raise JobNotFound(f"no job has the id {job_id}")
        return job

    def _cancel(self, job: TestJob) -> None:
        if job.status in ("succeeded", "dead"):
            raise IllegalTransition(f"job {job.id} is {job.status}; it cannot be cancelled")
        self._finish(job, "cancelled")

    def _retry(self, job: TestJob) -> None:
        is_dead = job.status == "dead"
        is_delayed = job.status in ("failed", "pending") and job.run_at > self.clock.now
        if not is_delayed and not (is_dead and self._holder(job.unique_key) is None):
            raise IllegalTransition(
                f"job {job.id} is {job.status}; only failed, delayed and dead jobs can be retried"
                + (", and no other live job may have its unique key" if job.unique_key else "")
            )
        if is_dead:
            job.generation += 1
            job.attempts = 0
            job.finished_at = None
            self._live[job.id] = job
        job.status = "pending"
        job.run_at = self.clock.now

    def _fail(self, job: TestJob, failed: pb.Failed) -> None:
        job.errors.append(failed.error)
        if failed.non_retryable or job.attempts > job.max_retries:
            self._finish(job, "dead")
            return
        seconds = failed.retry_after_ms / 1000 if failed.HasField("retry_after_ms") else _delay_seconds(job)
        job.status = "failed"
        job.run_at = self.clock.now + timedelta(seconds=seconds)
        self._end_back_offs()

    def _end_back_offs(self) -> None:
        """Let failed jobs wait like any other once their time has come."""
        for job in self._live.values():
            if job.status == "failed" and job.run_at <= self.clock.now:
                job.status = "pending"

    def _finish(self, job: TestJob, status: str) -> None:
        self._live.pop(job.id, None)
        job.status = status
        job.finished_at = self.clock.now


def _firsts(specs: Sequence[pb.JobSpec]) -> list[int]:
    """Return, for each job of a batch, the position of the first one with its id, as a rule its own.

    Raises:
        KeyReused: A later one is other work.
    """
    by_id: dict[str, int] = {}
    firsts = []
    for position, spec in enumerate(specs):
        first = by_id.setdefault(spec.id.lower(), position) if spec.id else position
        if _work(specs[first]) != _work(spec):
            raise KeyReused(
                f"{spec.id} is the id of an earlier job of the batch, which has another type, queue or payload",
                field=f"jobs[{position}].id",
            )
        firsts.append(first)
    return firsts


def _as_existing(answer: pb.SubmittedJob) -> pb.SubmittedJob:
    """Return an answer for whoever repeats the submission."""
    return pb.SubmittedJob(id=answer.id, status=answer.status, run_at=answer.run_at, existing=True)


def _work(spec: pb.JobSpec) -> tuple[str, str, bytes]:
    """Return what has to be the same for a submission to be the repeat of another."""
    return spec.type, spec.queue or QUEUE_DEFAULT, spec.payload


def _delay_seconds(job: TestJob) -> float:
    rule = job.spec.backoff if job.spec.HasField("backoff") else BACKOFF_DEFAULT
    if rule.kind == "fixed":
        delay = rule.base_seconds
    elif rule.kind == "linear":
        delay = rule.base_seconds * job.attempts
    else:
        delay = rule.base_seconds * 2.0 ** (min(job.attempts, EXPONENT_MAX) - 1)
    return min(delay, rule.max_seconds)


def _time(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment.astimezone(UTC).replace(tzinfo=None))
    return timestamp


def _details(job: TestJob) -> pb.JobDetails:
    return pb.JobDetails(
        id=job.id, type=job.type, payload=job.spec.payload, queue=job.queue, priority=job.priority, status=job.status,
        attempts=job.attempts, deliveries=job.deliveries, generation=job.generation, max_retries=job.max_retries,
        last_error=job.errors[-1] if job.errors else "",
        result=b"" if job.result is None else json.dumps(job.result).encode(),
        created_at=_time(job.created_at), run_at=_time(job.run_at), tags=job.tags,
        finished_at=None if job.finished_at is None else _time(job.finished_at),
    )  # fmt: skip
