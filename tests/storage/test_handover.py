"""Handing over: new jobs are leased by the commit that records them, and nobody is overtaken."""

from datetime import timedelta
from typing import Any

from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import LeasedJob, NewJob
from quorra_server.domain.states import JobStatus

from tests.support.queue_spec import LEASE_SECONDS, QueueSpec


async def test_where_nobody_waits_new_jobs_are_leased_as_they_are_recorded(queue: QueueSpec) -> None:
    ids, batch = await queue.hand_over(3)

    assert batch is not None
    assert ids == [job.job_id for job in batch.jobs]
    assert {JobStatus.LEASED: 3} == await queue.counts()
    assert await queue.lease() is None


async def test_what_is_handed_over_is_what_a_lease_would_have_taken(queue: QueueSpec) -> None:
    fields: dict[str, Any] = {"payload": '{"n": 1}', "priority": 4, "max_retries": 7, "timeout_ms": 9_000}
    _, handed = await queue.hand_over(1, tags=("a", "b"), **fields)
    await queue.submit(tags=("a", "b"), **fields)
    leased = await queue.lease()

    assert handed is not None
    assert leased is not None
    assert _alike(leased.jobs[0]) == _alike(handed.jobs[0])
    first, second = await queue.job(handed.jobs[0].job_id), await queue.job(leased.jobs[0].job_id)
    assert ("worker-1", ("a", "b"), 1) == (first.leased_by, first.tags, first.deliveries)
    assert (second.status, second.tags, second.deliveries) == (first.status, first.tags, first.deliveries)
    assert first.leased_at is not None
    assert first.leased_at + timedelta(seconds=LEASE_SECONDS) == first.lease_expires_at


def _alike(job: LeasedJob) -> tuple[object, ...]:
    """Return what does not depend on which job it is and when it came."""
    return (job.ordinal, job.payload, *job.traits)


async def test_within_a_batch_priority_goes_first_and_then_the_order_of_submission(queue: QueueSpec) -> None:
    new = [NewJob(new_job_id(), "task", "{}", priority=priority) for priority in (0, 5, 0, 9)]

    batch = await queue.hand_over_jobs(new)

    assert batch is not None
    assert [new[3].id, new[1].id, new[0].id, new[2].id] == [job.job_id for job in batch.jobs]


async def test_a_job_that_waits_is_not_overtaken(queue: QueueSpec) -> None:
    first = await queue.submit_one()

    ids, batch = await queue.hand_over(2)

    assert batch is None
    leased = await queue.lease()
    assert leased is not None
    assert [first, *ids] == [job.job_id for job in leased.jobs]


async def test_jobs_of_another_queue_or_another_day_are_nobody_to_wait_for(queue: QueueSpec) -> None:
    await queue.submit_one(queue="other")
    await queue.submit_one(delay_ms=60_000)

    _, batch = await queue.hand_over()

    assert batch is not None
    assert {JobStatus.PENDING: 1, JobStatus.LEASED: 1} == await queue.counts()


async def test_a_lease_that_nobody_was_told_of_runs_out_and_costs_no_attempt(queue: QueueSpec) -> None:
    (job_id,), _ = await queue.hand_over()

    await queue.pass_time(LEASE_SECONDS + 1)
    await queue.expire()

    leased = await queue.lease()
    assert leased is not None
    assert [(job_id, 0, 2)] == [(job.job_id, job.attempts, job.deliveries) for job in leased.jobs]


async def test_a_run_of_a_job_that_was_handed_over_is_ended_after_its_timeout(queue: QueueSpec) -> None:
    _, batch = await queue.hand_over(timeout_ms=1_000)
    assert batch is not None
    await queue.start(*batch.lease_ids())

    await queue.pass_time(20)

    assert batch.lease_ids() == [ended.lease for ended in await queue.time_out()]


async def test_the_outcome_of_a_job_that_was_handed_over_decides(queue: QueueSpec) -> None:
    _, batch = await queue.hand_over(2)
    assert batch is not None
    good, bad = batch.lease_ids()

    assert await queue.succeed(good, {"n": 1})
    assert await queue.fail(bad)
    assert not await queue.succeed(bad)

    assert {JobStatus.SUCCEEDED: 1, JobStatus.FAILED: 1} == await queue.counts()
