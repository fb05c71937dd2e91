"""A model of the queue - a dictionary and a clock - and the storage side by side, driven at random.

The model counts minutes: the seconds that the test itself takes, however busy the machine is, decide nothing.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from quorra_server.domain.job import LeaseBatch, LeaseId
from quorra_server.domain.retry import Backoff
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.storage import jobs, leases, queues

from tests.support.queue_spec import TIMEOUT_GRACE_SECONDS, QueueSpec

MINUTE = 60
LEASE_MINUTES = 30
LEASE_MS = LEASE_MINUTES * MINUTE * 1000
BACKOFF = Backoff(base_seconds=2 * MINUTE)
BACKOFF_IN_SQL = json.dumps({"base_seconds": BACKOFF.base_seconds})
TABLES = (
    "quorra.jobs, quorra.ready, quorra.leases, quorra.outcomes, quorra.keys, quorra.count_deltas, quorra.queue_counts"
)


@dataclass
class ModelJob:
    """What should be true of one job; times are minutes of the model's clock."""

    max_retries: int
    due: float
    timeout: float = 0.0
    status: JobStatus = JobStatus.PENDING
    attempts: int = 0
    deliveries: int = 0
    silent: int = 0
    generation: int = 1
    lease: LeaseId | None = None
    started: bool = False
    started_at: float = 0.0
    batch_expires: float = 0.0
    successes_in_life: int = 0

    def wait(self, until: float, status: JobStatus) -> None:
        self.lease, self.started, self.due, self.status = None, False, until, status

    def end(self, status: JobStatus) -> None:
        self.lease, self.started, self.status = None, False, status


@dataclass
class Model:
    """All jobs, and a clock that only the test moves."""

    now: float = 0.0
    jobs: dict[UUID, ModelJob] = field(default_factory=dict)

    def status_of(self, job: ModelJob) -> JobStatus:
        """Backing off ends by time alone."""
        return JobStatus.PENDING if job.status is JobStatus.FAILED and job.due <= self.now else job.status


class StorageMachine(RuleBasedStateMachine):
    """Every rule does one thing to both, and says what must come of it."""

    leased = Bundle("leased")
    database_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.runner = asyncio.Runner()
        self.queue = QueueSpec(self.database_url, connections=2)
        self.call(self.queue.pool.open())
        self.call(self.queue.pool.fetch(f"TRUNCATE {TABLES}"))

    def teardown(self) -> None:
        self.call(self.queue.pool.close())
        self.runner.close()

    def call(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(
        count=st.integers(1, 4),
        max_retries=st.integers(0, 2),
        delay=st.sampled_from([0, 0, 0, 20]),
        timeout=st.sampled_from([0, 0, 10]),
    )
    def submit(self, count: int, max_retries: int, delay: int, timeout: int) -> None:
        delay_ms = delay * MINUTE * 1000
        ids = self.call(self.queue.submit(count, delay_ms=delay_ms, **_fields(max_retries, timeout)))
        for job_id in ids:
            self.model.jobs[job_id] = ModelJob(max_retries, due=self.model.now + delay, timeout=timeout)

    @rule(max_retries=st.integers(0, 2), delay=st.sampled_from([0, 0, 20]))
    def enqueue(self, max_retries: int, delay: int) -> None:
        delay_seconds = float(delay * MINUTE)
        job_id = self.call(
            self.queue.enqueue(max_retries=max_retries, delay_seconds=delay_seconds, backoff=BACKOFF_IN_SQL)
        )
        self.model.jobs[job_id] = ModelJob(max_retries, due=self.model.now + delay)

    @rule(target=leased, count=st.integers(1, 4), max_retries=st.integers(0, 2), timeout=st.sampled_from([0, 0, 10]))
    def hand_over(self, count: int, max_retries: int, timeout: int) -> Any:
        """New jobs are leased at once, unless others are due."""
        line_is_empty = not any(self._is_due(job) for job in self.model.jobs.values())
        ids, batch = self.call(self.queue.hand_over(count, lease_ms=LEASE_MS, **_fields(max_retries, timeout)))
        assert (batch is not None) == line_is_empty
        for job_id in ids:
            self.model.jobs[job_id] = ModelJob(max_retries, due=self.model.now, timeout=timeout)
        return self._taken(batch)

    @rule(target=leased, limit=st.integers(1, 5))
    def lease(self, limit: int) -> Any:
        batch = self.call(self.queue.lease(limit, lease_ms=LEASE_MS))
        due = {key for key, job in self.model.jobs.items() if self._is_due(job)}
        taken = batch.lease_ids() if batch else []
        assert len(taken) == min(limit, len(due))
        assert {lease.job_id for lease in taken} <= due
        return self._taken(batch)

    def _taken(self, batch: LeaseBatch | None) -> Any:
        """Note what was leased."""
        taken = batch.lease_ids() if batch else []
        for lease in taken:
            job = self.model.jobs[lease.job_id]
            job.lease, job.status, job.deliveries = lease, JobStatus.LEASED, job.deliveries + 1
            job.batch_expires = self.model.now + LEASE_MINUTES
        return multiple(*taken)

    def _is_due(self, job: ModelJob) -> bool:
        return job.status in (JobStatus.PENDING, JobStatus.FAILED) and job.due <= self.model.now

    @rule(lease=leased)
    def start(self, lease: LeaseId) -> None:
        self.call(self.queue.start(lease))
        job = self.model.jobs[lease.job_id]
        if job.lease == lease:
            job.started_at = job.started_at if job.started else self.model.now
            job.started, job.status = True, JobStatus.PROCESSING

    @rule(
        lease=leased,
        kind=st.sampled_from(
            [
                OutcomeKind.SUCCEEDED,
                OutcomeKind.FAILED,
                OutcomeKind.RELEASED,
                OutcomeKind.SNOOZED,
                OutcomeKind.CANCELLED,
            ]
        ),
    )
    def settle(self, lease: LeaseId, kind: OutcomeKind) -> None:
        """Settle any lease that ever was: only the current one may be accepted."""
        job = self.model.jobs[lease.job_id]
        accepted = self.call(
            self.queue.settle(lease, kind, run_ms=1, error="no" if kind == OutcomeKind.FAILED else None)
        )
        assert accepted == (job.lease == lease)
        if accepted:
            self._end(job, kind)

    @rule(lease=leased, kind=st.sampled_from([OutcomeKind.SUCCEEDED, OutcomeKind.FAILED]))
    def settle_in_sql(self, lease: LeaseId, kind: OutcomeKind) -> None:
        """The functions of the user's transaction are another door to the same room."""
        job = self.model.jobs[lease.job_id]
        door = self.queue.complete if kind is OutcomeKind.SUCCEEDED else self.queue.fail_in_sql
        accepted = self.call(door(lease))
        assert accepted == (job.lease == lease)
        if accepted:
            self._end(job, kind)

    def _end(self, job: ModelJob, kind: OutcomeKind) -> None:
        job.silent = 0
        if kind in (OutcomeKind.RELEASED, OutcomeKind.SNOOZED):
            job.wait(self.model.now, JobStatus.PENDING)
            return
        job.attempts += 1
        if kind is OutcomeKind.SUCCEEDED:
            job.successes_in_life += 1
            job.end(JobStatus.SUCCEEDED)
        elif kind is OutcomeKind.CANCELLED:
            job.end(JobStatus.CANCELLED)
        else:
            self._fail(job)

    def _fail(self, job: ModelJob) -> None:
        if job.attempts > job.max_retries:
            job.end(JobStatus.DEAD)
        else:
            job.wait(self.model.now + min(2.0**job.attempts, 60.0), JobStatus.FAILED)

    @rule(lease=leased)
    def renew(self, lease: LeaseId) -> None:
        renewed = self.call(self.queue.renew(lease, LEASE_MINUTES * MINUTE))
        members = [job for job in self.model.jobs.values() if job.lease and job.lease.batch == lease.batch]
        if members and members[0].batch_expires > self.model.now:
            assert renewed
        if renewed:
            for job in members:
                job.batch_expires = self.model.now + LEASE_MINUTES

    @rule(minutes=st.sampled_from([1, 5, 31, 100]))
    def pass_time(self, minutes: int) -> None:
        # A little more in the database than in the model: the statements themselves take time.
        self.call(self.queue.pass_time(minutes * MINUTE))
        self.model.now += minutes

    @rule()
    def expire(self) -> None:
        expired = {ended.lease.job_id for ended in self.call(self.queue.expire())}
        overdue = {
            key for key, job in self.model.jobs.items() if job.lease is not None and job.batch_expires <= self.model.now
        }
        assert expired == overdue
        for job in (self.model.jobs[key] for key in overdue):
            if job.started:
                job.attempts, job.silent = job.attempts + 1, 0
                self._fail(job)
            else:
                job.silent += 1
                if job.silent >= job.max_retries + 10:
                    job.end(JobStatus.DEAD)
                else:
                    job.wait(self.model.now, JobStatus.PENDING)

    @rule()
    def time_out(self) -> None:
        """Only runs past a timeout of their own end, whatever became of their neighbours or their lease."""
        ended = {run.lease.job_id for run in self.call(self.queue.time_out())}
        overdue = {key for key, job in self.model.jobs.items() if self._is_past_its_timeout(job)}
        assert ended == overdue
        for job in (self.model.jobs[key] for key in overdue):
            job.attempts, job.silent = job.attempts + 1, 0
            self._fail(job)

    def _is_past_its_timeout(self, job: ModelJob) -> bool:
        is_timed = job.lease is not None and job.started and job.timeout > 0
        return is_timed and job.started_at + job.timeout <= self.model.now

    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: Any) -> None:
        if not self.model.jobs:
            return
        job_id = pick.choice(sorted(self.model.jobs))
        job = self.model.jobs[job_id]
        is_live = job.status in (JobStatus.PENDING, JobStatus.FAILED, JobStatus.LEASED, JobStatus.PROCESSING)
        assert self.call(self.queue.cancel(job_id)) == int(is_live)
        if is_live:
            job.attempts += int(job.started)
            job.end(JobStatus.CANCELLED)

    @rule(pick=st.randoms(use_true_random=False))
    def retry_or_replay(self, pick: Any) -> None:
        if not self.model.jobs:
            return
        job_id = pick.choice(sorted(self.model.jobs))
        job = self.model.jobs[job_id]
        hurried = self.call(jobs.retry_waiting(self.queue.pool, [job_id]))
        replayed = self.call(jobs.replay_dead(self.queue.pool, [job_id]))
        is_ahead = job.status in (JobStatus.PENDING, JobStatus.FAILED) and job.due > self.model.now
        assert (job_id in hurried, job_id in replayed) == (is_ahead, job.status is JobStatus.DEAD)
        if is_ahead:
            job.wait(self.model.now, JobStatus.PENDING)
        elif job.status is JobStatus.DEAD:
            job.attempts, job.silent, job.successes_in_life = 0, 0, 0
            job.generation += 1
            job.wait(self.model.now, JobStatus.PENDING)

    @rule()
    def close_and_fold(self) -> None:
        self.call(leases.close_batches(self.queue.pool, None))
        self.call(queues.fold_counts(self.queue.pool, limit=1000))

    @invariant()
    def each_job_is_in_exactly_one_place(self) -> None:
        places = self.call(self.queue.places())
        assert places.keys() == self.model.jobs.keys()
        assert all(len(place) == 1 for place in places.values()), places

    @invariant()
    def every_read_agrees_with_the_model(self) -> None:
        found = {job.id: job for job in self.call(jobs.get_jobs(self.queue.pool, list(self.model.jobs)))}
        for key, job in self.model.jobs.items():
            seen = found[key]
            running = job.attempts + int(job.started)
            assert (seen.status, seen.attempts) == (self.model.status_of(job), running)
            assert (seen.deliveries, seen.generation) == (job.deliveries, job.generation)
            assert seen.attempts <= job.max_retries + 1
            assert job.successes_in_life <= 1

    @invariant()
    def counts_equal_real_counts(self) -> None:
        wanted: dict[JobStatus, int] = {}
        for job in self.model.jobs.values():
            status = self.model.status_of(job)
            wanted[status] = wanted.get(status, 0) + 1
        assert self.call(self.queue.counts()) == wanted


def _fields(max_retries: int, timeout: int) -> dict[str, Any]:
    """Return fields of new jobs whose runs are ended after so many minutes, the grace included; 0 is never."""
    timeout_ms = (timeout * MINUTE - TIMEOUT_GRACE_SECONDS) * 1000 if timeout else 0
    return {"max_retries": max_retries, "backoff": BACKOFF, "timeout_ms": timeout_ms}


@pytest.mark.slow
def test_the_storage_behaves_like_its_model(database_url: str) -> None:
    StorageMachine.database_url = database_url
    run_state_machine_as_test(
        StorageMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
