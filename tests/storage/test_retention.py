"""Retention: days past their time are dropped whole; what lives, or is dead for less than its time, stays."""

from datetime import timedelta

from quorra_server.domain.states import JobStatus
from quorra_server.storage import leases, retention

from tests.support.queue_spec import QueueSpec

WEEK = timedelta(days=7)
MONTH = timedelta(days=30)


async def test_partitions_are_made_ahead_and_only_once(queue: QueueSpec) -> None:
    assert await retention.make_partitions(queue.pool, 10) == 2
    assert await retention.make_partitions(queue.pool, 10) == 0


async def test_a_day_past_its_time_is_dropped_and_what_must_stay_is_kept(queue: QueueSpec) -> None:
    waiting, held = await queue.submit_one(delay_ms=10**9), await queue.submit_one()
    lease = await queue.lease_one()
    done = await queue.submit_one()
    await queue.succeed(await queue.lease_one())
    dead = await queue.fail_until_dead()
    assert held == lease.job_id
    await leases.close_batches(queue.pool, None)

    # A retention of minus one day makes today old.
    days = await retention.drop_partitions(queue.pool, timedelta(days=-1), MONTH)

    assert len(days) == 1
    assert [await queue.status_of(job_id) for job_id in (waiting, held, dead)] == [
        JobStatus.PENDING,
        JobStatus.LEASED,
        JobStatus.DEAD,
    ]
    assert done not in await queue.places()
    assert await queue.counts() == {JobStatus.PENDING: 1, JobStatus.LEASED: 1, JobStatus.DEAD: 1}


async def test_a_kept_job_can_still_be_settled_and_goes_when_its_own_time_is_over(queue: QueueSpec) -> None:
    await queue.submit_one()
    lease = await queue.lease_one()
    await retention.drop_partitions(queue.pool, timedelta(days=-1), MONTH)

    assert await queue.succeed(lease)
    await leases.close_batches(queue.pool, None)
    pruned = await retention.prune_default(queue.pool, timedelta(seconds=-1), MONTH, limit=10)

    assert pruned == 1
    assert await queue.places() == {}
    assert await queue.counts() == {}


async def test_a_job_past_its_time_stays_until_the_last_of_its_batch_has_ended(queue: QueueSpec) -> None:
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    over, running = batch.lease_ids()
    await queue.succeed(over)
    await retention.drop_partitions(queue.pool, timedelta(days=-1), MONTH)

    too_early = await retention.prune_default(queue.pool, timedelta(seconds=-1), MONTH, limit=10)
    await queue.succeed(running)
    closed = await leases.close_batches(queue.pool, None)
    pruned = await retention.prune_default(queue.pool, timedelta(seconds=-1), MONTH, limit=10)

    assert (0, {batch.batch}, 2) == (too_early, closed, pruned)
    assert {} == await queue.counts()
