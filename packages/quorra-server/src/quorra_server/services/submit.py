"""Submitting: jobs come in and are durable when the caller gets its answer.

Single submissions that wait while an insert runs share the next one (group commit); each caller still gets its own
answer, after the commit that holds its job, and its own error. Where a worker waits for their queue that commit leases
them too.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from quorra_server.domain.errors import Conflict, KeyReused
from quorra_server.domain.job import JobDetails, NewJob, SubmittedJob
from quorra_server.domain.states import JobStatus
from quorra_server.observability.metrics import Metrics
from quorra_server.services.acknowledged import Acknowledged
from quorra_server.services.dispatch import Dispatcher, Seat
from quorra_server.services.runners import Runners
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import durability, handover, keys
from quorra_server.storage import jobs as store
from quorra_server.storage.database import Executor, Pool
from quorra_server.storage.keys import Holder, Key

GROUP_MAX = 1_000
# While one insert waits for its commit, the next one already runs.
STATEMENTS_AT_ONCE = 2
CLAIM_ROUNDS_MAX = 3


class SubmitService:
    """Accepts validated jobs, alone or in batches."""

    def __init__(
        self, pool: Pool, dispatcher: Dispatcher, wakeups: Wakeups, metrics: Metrics, acknowledged: Acknowledged
    ) -> None:
        """Take the pool to write through, who knows the workers that wait, and whom to tell."""
        self._pool = pool
        self._dispatcher = dispatcher
        self._wakeups = wakeups
        self._metrics = metrics
        self._acknowledged = acknowledged
        self._waiting: list[tuple[NewJob, asyncio.Future[SubmittedJob]]] = []
        self._runners = Runners()

    async def submit_job(self, job: NewJob, principal: str) -> SubmittedJob:
        """Record one job; shares its insert with whoever submits at the same time.

        Raises:
            KeyReused: The id or the idempotency key belongs to another job.
            Conflict: The job that holds the key went away this moment; repeating is safe.
            StorageUnavailable: See its message whether repeating needs a key to be safe.
        """
        if job.unique_key or job.request_key or job.id_is_callers:
            return (await self.submit_jobs([job], principal))[0]
        answer: asyncio.Future[SubmittedJob] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, answer))
        if len(self._runners) < STATEMENTS_AT_ONCE:
            self._runners.start(self._run)
        return await answer

    async def submit_jobs(self, jobs: Sequence[NewJob], principal: str) -> list[SubmittedJob]:
        """Record jobs, all or none of them, and answer in the order given.

        A job that existed already (same id, unique key or idempotency key) is answered with the existing one; so is one
        whose id an earlier one of them has.

        Raises:
            KeyReused: An id or an idempotency key belongs to another job, or two of them share an id; nothing was
                recorded.
            Conflict: The job that holds a key went away this moment; repeating is safe.
            StorageUnavailable: See its message whether repeating needs a key to be safe.
        """
        if not jobs:
            return []
        if any(job.unique_key or job.request_key or job.id_is_callers for job in jobs):
            return await self._submit_named(jobs, principal)
        return await self._submit_new(jobs)

    async def _submit_named(self, jobs: Sequence[NewJob], principal: str) -> list[SubmittedJob]:
        """Submit jobs that may exist already."""
        once = _once_each(jobs)
        answers, created = await self._record_named(once, principal)
        fresh = [job for job in once if job.id in created]
        self._count(fresh)
        self._wake(fresh, [created[job.id] for job in fresh])
        self._acknowledged.jobs([answer.id for answer in answers])
        return _answers_to_all(jobs, once, answers)

    async def _record_named(
        self, jobs: Sequence[NewJob], principal: str
    ) -> tuple[list[SubmittedJob], dict[UUID, datetime]]:
        """Record jobs that may exist already, each id once; returns the answers and when the new ones are due."""
        for _ in range(CLAIM_ROUNDS_MAX):
            with contextlib.suppress(_Overtaken):
                return await self._pool.run_transaction(
                    lambda transaction: self._submit_careful(transaction, jobs, principal)
                )
        raise Conflict("Others submit the same ids this moment; repeat the request.", field="id")

    async def _submit_new(self, jobs: Sequence[NewJob]) -> list[SubmittedJob]:
        """Submit jobs that cannot exist already."""
        seat = self._dispatcher.take_seat(jobs)
        if seat is None:
            due = await store.submit_jobs(self._pool, jobs)
            self._wake(jobs, due)
        else:
            due = [await self._submit_to(seat, jobs)] * len(jobs)
        self._count(jobs)
        self._acknowledged.jobs([job.id for job in jobs])
        return [SubmittedJob(job.id, JobStatus.PENDING, run_at) for job, run_at in zip(jobs, due, strict=True)]

    async def _submit_to(self, seat: Seat, jobs: Sequence[NewJob]) -> datetime:
        """Submit jobs to a worker that waits for them, unless others come first; return when they are due."""
        batch = None
        try:
            due, batch = await handover.submit_leased_jobs(
                self._pool,
                jobs,
                worker=seat.stream.worker,
                principal=seat.stream.principal,
                lease_ms=seat.stream.lease_ms,
                secret=uuid4(),
            )
        finally:
            self._dispatcher.leave_seat(seat, batch)
        if batch is None:
            self._wakeups.work_ready([jobs[0].queue])
        return due

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
            await self._answer(group)

    async def _answer(self, group: Sequence[tuple[NewJob, asyncio.Future[SubmittedJob]]]) -> None:
        try:
            answers = await self._submit_new([job for job, _ in group])
        except Exception as error:
            # Whatever went wrong belongs to the callers; the runner serves others too.
            for _, waiting in group:
                if not waiting.done():
                    waiting.set_exception(error)
            return
        for (_, waiting), answer in zip(group, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)

    def _count(self, jobs: Sequence[NewJob]) -> None:
        for queue, count in Counter([job.queue for job in jobs]).items():
            self._metrics.jobs_created.labels(self._metrics.queue(queue)).inc(count)
        self._metrics.submit_batch.observe(len(jobs))

    def _wake(self, jobs: Sequence[NewJob], due: Sequence[datetime]) -> None:
        delayed = [(job, run_at) for job, run_at in zip(jobs, due, strict=True) if job.delay_ms or job.run_at]
        for job, run_at in delayed:
            self._wakeups.work_due(job.queue, run_at.timestamp())
        if len(delayed) < len(jobs):
            self._wakeups.work_ready({job.queue for job in jobs if not (job.delay_ms or job.run_at)})

    async def _submit_careful(
        self, transaction: Executor, jobs: Sequence[NewJob], principal: str
    ) -> tuple[list[SubmittedJob], dict[UUID, datetime]]:
        """Submit jobs that may exist already, in one transaction.

        Raises:
            _Overtaken: Somebody else submitted an id while this transaction claimed a unique key for it.
        """
        known = await _known_ids(transaction, jobs)
        merged = await _claim_keys(transaction, jobs, known, principal)
        fresh = [job for job in jobs if job.id not in merged]
        created = await store.submit_named_jobs(transaction, fresh)
        if any(job.unique_key and job.id not in created and job.id not in known for job in fresh):
            raise _Overtaken
        wanted = {job.id: merged[job.id].job_id if job.id in merged else job.id for job in jobs}
        known_ids = {wanted[job.id] for job in jobs} - set(created)
        existing = {job.id: job for job in await store.get_jobs(transaction, list(known_ids))}
        answers = [_answer(job, created, existing.get(wanted[job.id]), merged.get(job.id)) for job in jobs]
        if known_ids:
            await durability.confirm_reads(transaction)
        return answers, created


class _Overtaken(Exception):
    """The transaction claimed a unique key for a job that exists by now, and may never free it: it starts anew."""


class _Merged(NamedTuple):
    """The job that another one was merged into.

    Attributes:
        requested_since: Since when the idempotency key that led there has been that job's; None if a unique key did.
    """

    job_id: UUID
    requested_since: datetime | None = None


async def _claim_keys(
    executor: Executor, jobs: Sequence[NewJob], known: set[UUID], principal: str
) -> dict[UUID, _Merged]:
    """Claim the keys of jobs; returns, for each job whose key is taken, the job that has it.

    Idempotency keys come first: a repeated request must find its own first try, not trip over its unique key. Where
    that first try was merged for its unique key, the idempotency key leads to the same job from then on.

    Args:
        jobs: Each with an id of its own.
        known: The ids of jobs that exist already. They claim no unique key: a job that has ended would never free it.
    """
    requests = _request_keys(jobs, principal)
    repeats = await _taken(executor, requests)
    settled = repeats.keys() | known
    rivals = await _taken(executor, [claim for claim in _unique_keys(jobs) if claim[1] not in settled])
    merges = [(key, job_id, rivals[job_id].job_id) for key, job_id in requests if job_id in rivals]
    if merges:
        await keys.redirect_keys(executor, merges)
    return {job_id: _Merged(*holder) for job_id, holder in repeats.items()} | {
        job_id: _Merged(holder.job_id) for job_id, holder in rivals.items()
    }


async def _known_ids(executor: Executor, jobs: Sequence[NewJob]) -> set[UUID]:
    """Return the ids of jobs with a unique key that exist already."""
    perhaps = [job.id for job in jobs if job.unique_key and job.id_is_callers]
    return {job.id for job in await store.get_jobs(executor, perhaps)} if perhaps else set()


async def _taken(executor: Executor, claims: Sequence[tuple[Key, UUID]]) -> dict[UUID, Holder]:
    """Claim keys for jobs; returns who has the key of each job that came too late."""
    if not claims:
        return {}
    holders = await _holders_after_claim(executor, claims)
    return {job_id: holders[key] for key, job_id in claims if holders[key].job_id != job_id}


async def _holders_after_claim(executor: Executor, claims: Sequence[tuple[Key, UUID]]) -> dict[Key, Holder]:
    """Claim keys and return who holds each of them now.

    A holder may end, and free its key, between the claim that it won and the look at who won: the claim is repeated.
    """
    wanted = {key for key, _ in claims}
    for _ in range(CLAIM_ROUNDS_MAX):
        await keys.claim_keys(executor, claims)
        holders = await keys.find_keys(executor, list(wanted))
        if wanted <= holders.keys():
            return holders
    raise Conflict("The key changes hands too quickly; repeat the request.", field="unique_key")


def _request_keys(jobs: Sequence[NewJob], principal: str) -> list[tuple[Key, UUID]]:
    return [(Key(keys.request_scope(principal), job.request_key), job.id) for job in jobs if job.request_key]


def _unique_keys(jobs: Sequence[NewJob]) -> list[tuple[Key, UUID]]:
    return [(Key(keys.LIVE_SCOPE, job.unique_key), job.id) for job in jobs if job.unique_key]


def _once_each(jobs: Sequence[NewJob]) -> list[NewJob]:
    """Return the first job of each id.

    Raises:
        KeyReused: A later one is other work: one job cannot be both.
    """
    first: dict[UUID, NewJob] = {}
    for position, job in enumerate(jobs):
        earlier = first.setdefault(job.id, job)
        if earlier is not job and _work(earlier) != _work(job):
            raise KeyReused(
                f"jobs[{position}].id is {job.id}, as that of a job before it, which has another type, queue or "
                "payload. Use a new id for new work.",
                field=f"jobs[{position}].id",
            )
    return list(first.values())


def _answers_to_all(jobs: Sequence[NewJob], once: Sequence[NewJob], answers: list[SubmittedJob]) -> list[SubmittedJob]:
    """Return the answer to each job, given those to the first one of each id; the others find theirs existing."""
    if len(once) == len(jobs):
        return answers
    told = {job.id: answer for job, answer in zip(once, answers, strict=True)}
    everybody = []
    for job in jobs:
        everybody.append(told[job.id])
        told[job.id] = told[job.id]._replace(existing=True)
    return everybody


def _work(job: NewJob | JobDetails) -> tuple[str, str, str]:
    """Return what has to be the same for a submission to be the repeat of another."""
    return job.type, job.queue, job.payload


def _answer(
    job: NewJob, created: dict[UUID, datetime], existing: JobDetails | None, merged: _Merged | None
) -> SubmittedJob:
    if existing is None:
        wanted_id = merged.job_id if merged else job.id
        if wanted_id not in created:
            raise Conflict("The job that had this key was removed this moment; repeat the request.")
        return SubmittedJob(wanted_id, JobStatus.PENDING, created[wanted_id], existing=wanted_id != job.id)
    if _work(job) != _work(existing) and not (merged and _may_differ(job, existing, merged)):
        raise KeyReused(
            f"This id or idempotency key belongs to job {existing.id}, which has another type, queue or payload. "
            "Use a new key for new work.",
            field="id" if existing.id == job.id else "Idempotency-Key",
        )
    return SubmittedJob(existing.id, existing.status, existing.run_at, existing=True)


def _may_differ(job: NewJob, existing: JobDetails, merged: _Merged) -> bool:
    """Say whether a unique key, which merges any work, led to a job: now, or at the first try of a repeated request.

    An idempotency key is older than the job that it made, and younger than one that its first try was merged into.
    """
    if merged.requested_since is None:
        return True
    return job.unique_key == existing.unique_key is not None and merged.requested_since > existing.created_at
