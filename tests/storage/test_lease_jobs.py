"""Leasing: order, limits, types, and what a lease costs a job."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import Report
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.storage import keys, leases, queues
from quorra_server.storage.keys import Key

from tests.support.queue_spec import PRINCIPAL, QueueSpec

ONLY_ONE = Key(keys.LIVE_SCOPE, "only-one")


async def test_jobs_come_by_priority_then_by_time_then_by_id(queue: QueueSpec) -> None:
    now = datetime.now(UTC)
    low = await queue.submit_one(priority=-5)
    late = await queue.submit_one(priority=7, run_at=now - timedelta(seconds=1))
    early = await queue.submit_one(priority=7, run_at=now - timedelta(seconds=9))
    normal = await queue.submit(2)

    batch = await queue.lease()

    assert batch is not None
    assert [early, late, *normal, low] == [job.job_id for job in batch.jobs]


async def test_a_lease_of_some_takes_the_first_of_the_line_and_not_the_oldest(queue: QueueSpec) -> None:
    old = await queue.submit(2, run_at=datetime.now(UTC) - timedelta(hours=1))
    urgent = await queue.submit_one(priority=1)

    leased = [(await queue.lease_one()).job_id for _ in range(2)]

    assert [urgent, old[0]] == leased


async def test_of_more_than_a_hundred_priorities_none_is_forgotten_and_their_order_is_kept(queue: QueueSpec) -> None:
    """Behind the hundredth the line is walked, delayed jobs included, where each one before has a look-up."""
    due = [await queue.submit_one(priority=-number) for number in range(0, 240, 2)]
    for number in range(1, 240, 2):
        await queue.submit_one(priority=-number, delay_ms=60_000)

    first, rest = await queue.lease(50), await queue.lease(500)

    assert first is not None
    assert rest is not None
    assert due == [job.job_id for job in (*first.jobs, *rest.jobs)]


async def test_a_queue_of_very_many_priorities_is_looked_at_in_vain_rather_than_not(queue: QueueSpec) -> None:
    for number in range(105):
        await queue.submit_one(priority=number, delay_ms=60_000)

    named = await queues.find_due_queues(queue.pool, ["default", "empty"])
    (new,), batch = await queue.hand_over()

    assert ["default"] == named
    assert batch is None
    assert new == (await queue.lease_one()).job_id


async def test_a_delayed_job_is_not_leased_before_its_time(queue: QueueSpec) -> None:
    job_id = await queue.submit_one(delay_ms=60_000)
    assert await queue.lease() is None

    await queue.pass_time(61)

    batch = await queue.lease()
    assert batch is not None
    assert [job_id] == [job.job_id for job in batch.jobs]


async def test_a_lease_charges_a_delivery_and_no_attempt(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()

    await queue.lease_one()

    job = await queue.job(job_id)
    assert (job.status, job.attempts, job.deliveries, job.leased_by) == (JobStatus.LEASED, 0, 1, "worker-1")


async def test_on_the_plain_path_delivery_is_the_start(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()

    await queue.lease_one(delivery_is_start=True)

    assert await queue.status_of(job_id) == JobStatus.PROCESSING
    assert (await queue.job(job_id)).attempts == 1


async def test_only_known_types_of_the_queue_are_leased(queue: QueueSpec) -> None:
    mail = await queue.submit_one(type="mail")
    await queue.submit_one(type="image")
    await queue.submit_one(type="mail", queue="other")

    batch = await queue.lease(types=["mail"])

    assert batch is not None
    assert [mail] == [job.job_id for job in batch.jobs]


async def test_each_job_of_a_lease_comes_with_what_is_its_own(queue: QueueSpec) -> None:
    """Their rows are found by id and day by day, in an order that is not that of the line."""
    today, tomorrow, of_no_day = new_job_id(), _id_of_tomorrow(), UUID(int=1)
    ids = [tomorrow, of_no_day, new_job_id(), today]
    for number, job_id in enumerate(ids):
        await queue.submit_one(
            id=job_id,
            type=f"type-{number}",
            payload=f'{{"n":{number}}}',
            priority=-number,
            max_retries=number + 1,
            timeout_ms=number * 1000,
        )
    await queue.fail(await queue.lease_one(), delay_ms=0)

    batch = await queue.lease()

    assert batch is not None
    assert ids == [job.job_id for job in batch.jobs]
    for number, job in enumerate(batch.jobs):
        assert (f"type-{number}", f'{{"n":{number}}}', -number) == (job.type, job.payload, job.priority)
        assert (number + 1, number * 1000, number + 1) == (job.max_retries, job.timeout_ms, job.ordinal)
    assert [(1, 2), (0, 1), (0, 1), (0, 1)] == [(job.attempts, job.deliveries) for job in batch.jobs]
    assert batch.jobs[0].run_at_us > max(job.run_at_us for job in batch.jobs[1:])


def _id_of_tomorrow() -> UUID:
    """Return an id whose first 48 bits are a moment of tomorrow, as RFC 9562 has it for version 7."""
    moment_ms = int((datetime.now(UTC) + timedelta(days=1)).timestamp() * 1000)
    return UUID(int=moment_ms << 80 | 7 << 76 | 2 << 62)


async def test_a_job_whose_row_is_gone_does_not_keep_others_from_being_leased(queue: QueueSpec) -> None:
    gone, other = await queue.submit(2)
    await queue.pool.fetch("DELETE FROM quorra.jobs WHERE id = $1 RETURNING id", gone)

    batch = await queue.lease()

    assert batch is not None
    assert [(other, 2)] == [(job.job_id, job.ordinal) for job in batch.jobs]


async def test_every_member_of_a_batch_has_a_lease_id_of_its_own(queue: QueueSpec) -> None:
    await queue.submit(20)

    batch = await queue.lease(20)

    assert batch is not None
    assert len(set(batch.lease_ids())) == 20


async def test_an_unstarted_job_whose_lease_runs_out_costs_a_delivery_only(queue: QueueSpec) -> None:
    poison, neighbour = await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    await queue.start(batch.lease_ids()[0])

    await queue.pass_time(31)
    await queue.expire()

    assert (await queue.status_of(poison), (await queue.job(poison)).attempts) == (JobStatus.FAILED, 1)
    spared = await queue.job(neighbour)
    assert (spared.status, spared.attempts, spared.deliveries) == (JobStatus.PENDING, 0, 1)


async def test_a_started_job_whose_lease_runs_out_ends_dead_not_in_a_loop(queue: QueueSpec) -> None:
    job_id = await queue.submit_one(max_retries=1)

    for _ in range(2):
        await queue.pass_time(100)
        await queue.start(await queue.lease_one())
        await queue.pass_time(31)
        await queue.expire()

    job = await queue.job(job_id)
    assert (job.status, job.attempts, job.last_error) == (JobStatus.DEAD, 2, "lease expired")


async def test_a_job_that_is_never_started_is_dead_after_max_retries_plus_10_silent_deliveries(
    queue: QueueSpec,
) -> None:
    job_id = await queue.submit_one(max_retries=2)

    for _ in range(12):
        assert await queue.status_of(job_id) == JobStatus.PENDING
        await queue.lease_one()
        await queue.pass_time(31)
        await queue.expire()

    job = await queue.job(job_id)
    assert (
        job.status,
        job.attempts,
        job.deliveries,
        job.dead_because,
    ) == (JobStatus.DEAD, 0, 12, "delivered_too_often")


async def test_a_word_from_a_worker_starts_the_count_of_silent_deliveries_anew(queue: QueueSpec) -> None:
    job_id = await queue.submit_one(max_retries=0)
    for _ in range(9):
        await queue.lease_one()
        await queue.pass_time(31)
        await queue.expire()

    await queue.settle(await queue.lease_one(), OutcomeKind.RELEASED)
    await queue.lease_one()
    await queue.pass_time(31)
    await queue.expire()

    assert await queue.status_of(job_id) == JobStatus.PENDING


async def test_a_renewal_extends_a_live_lease_and_never_revives_or_shortens_one(queue: QueueSpec) -> None:
    await queue.submit(2)
    live, lost = await queue.lease_one(), await queue.lease_one(lease_ms=1000)

    await queue.pass_time(5)

    assert await queue.renew(live, seconds=1)
    assert not await queue.renew(lost)
    await queue.pass_time(20)
    assert [lost.job_id] == [expired.lease.job_id for expired in await queue.expire()]


async def test_a_renewal_with_a_guessed_secret_renews_nothing(queue: QueueSpec) -> None:
    await queue.submit(1)
    leased = await queue.lease_one()

    assert not await queue.renew(leased._replace(secret=leased.job_id))


async def test_the_first_mark_of_a_start_stays(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    leased = await queue.lease_one()
    await leases.mark_started(queue.pool, PRINCIPAL, [(leased, 0)])
    started_at = (await queue.job(job_id)).started_at

    await queue.pass_time(5)
    await leases.mark_started(queue.pool, PRINCIPAL, [(leased, 0)])

    assert started_at is not None
    assert started_at - timedelta(seconds=5) == (await queue.job(job_id)).started_at


async def test_a_lease_passes_by_jobs_that_another_one_is_taking(queue: QueueSpec) -> None:
    first, second = await queue.submit(2)

    async with queue.pool.transaction() as transaction:
        await leases.lease_jobs(
            transaction, queue="default", limit=1, worker="w", principal=PRINCIPAL, lease_ms=30_000, secret=uuid4()
        )
        async with asyncio.timeout(5):
            batch = await queue.lease()

    assert batch is not None
    assert [second] == [job.job_id for job in batch.jobs]
    assert await queue.status_of(first) == JobStatus.LEASED


async def test_expiry_passes_by_a_batch_that_somebody_is_settling(queue: QueueSpec) -> None:
    settled, lost = await queue.submit(2)
    leased = await queue.lease_one()
    await queue.lease_one()
    await queue.pass_time(31)

    async with queue.pool.transaction() as transaction:
        await leases.settle_attempts(transaction, PRINCIPAL, [Report(leased, OutcomeKind.SUCCEEDED)])
        async with asyncio.timeout(5):
            expired = await queue.expire()

    assert [lost] == [ended.lease.job_id for ended in expired]
    assert await queue.status_of(settled) == JobStatus.SUCCEEDED


async def test_a_job_that_dies_by_expiry_frees_its_unique_key(queue: QueueSpec) -> None:
    job_id = await queue.submit_one(max_retries=0, unique_key="only-one")
    await keys.claim_keys(queue.pool, [(ONLY_ONE, job_id)])
    await queue.start(await queue.lease_one())
    await queue.pass_time(31)

    await queue.expire()

    assert await queue.status_of(job_id) == JobStatus.DEAD
    assert {} == await keys.find_keys(queue.pool, [ONLY_ONE])


async def test_a_started_job_whose_row_is_gone_does_not_keep_other_leases_from_expiring(queue: QueueSpec) -> None:
    """Retention or an operator may have removed it; one that cannot be put back must not hold up the others."""
    gone = await queue.submit_one()
    await queue.start(await queue.lease_one())
    other = await queue.submit_one()
    await queue.start(await queue.lease_one())
    await queue.pool.fetch("DELETE FROM quorra.jobs WHERE id = $1 RETURNING id", gone)

    await queue.pass_time(31)
    await queue.expire()

    assert JobStatus.FAILED == await queue.status_of(other)


async def test_a_start_long_after_the_lease_is_marked(queue: QueueSpec) -> None:
    """Milliseconds of more than 24 days are beyond an integer."""
    job_id = await queue.submit_one()
    lease = await queue.lease_one()
    await queue.pass_time(seconds=30 * 86_400)

    await queue.start(lease)

    assert JobStatus.PROCESSING == await queue.status_of(job_id)
