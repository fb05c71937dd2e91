"""Settling: exactly one accepted outcome for each lease, and where the job goes next."""

import asyncio

import pytest
from quorra_server.domain.job import Report
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.storage import leases

from tests.support.queue_spec import PRINCIPAL, QueueSpec


async def test_a_success_on_the_first_run_reads_one_attempt(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()

    accepted = await queue.succeed(await queue.lease_one(), result={"sent": True})

    job = await queue.job(job_id)
    assert accepted
    assert (job.status, job.attempts, job.deliveries, job.result) == (JobStatus.SUCCEEDED, 1, 1, '{"sent": true}')
    assert job.started_at is not None
    assert job.finished_at is not None


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2), (2, 4), (3, 8), (4, 16)])
async def test_failures_back_off_2_4_8_seconds(queue: QueueSpec, attempt: int, seconds: int) -> None:
    job_id = await queue.submit_one(max_retries=10)

    for _ in range(attempt):
        await queue.pass_time(4000)
        await queue.fail(await queue.lease_one())

    assert await queue.status_of(job_id) == JobStatus.FAILED
    assert seconds == pytest.approx(await queue.seconds_until_due(job_id), abs=0.5)


async def test_a_failed_job_is_pending_again_when_its_time_has_come(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    await queue.fail(await queue.lease_one())
    assert await queue.lease() is None

    await queue.pass_time(3)

    assert await queue.status_of(job_id) == JobStatus.PENDING
    assert await queue.lease() is not None


async def test_max_retries_0_runs_once_and_is_dead_with_its_error(queue: QueueSpec) -> None:
    job_id = await queue.submit_one(max_retries=0)

    await queue.fail(await queue.lease_one(), error="no such host")

    job = await queue.job(job_id)
    assert (job.status, job.attempts, job.last_error) == (JobStatus.DEAD, 1, "no such host")
    assert job.dead_because == "retries_exhausted"


async def test_max_retries_3_means_at_most_4_runs(queue: QueueSpec) -> None:
    job_id = await queue.submit_one(max_retries=3)

    for _ in range(4):
        await queue.pass_time(10)
        await queue.fail(await queue.lease_one())

    assert await queue.status_of(job_id) == JobStatus.DEAD
    assert await queue.history_of(job_id) == ["failed"] * 4


async def test_a_report_after_the_lease_was_swept_changes_nothing(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    leased = await queue.lease_one()
    await queue.start(leased)
    await queue.pass_time(31)
    await queue.expire()
    before = await queue.job(job_id)

    accepted = await queue.succeed(leased)

    assert not accepted
    assert before == await queue.job(job_id)
    assert await queue.history_of(job_id) == ["expired"]


async def test_a_late_report_is_accepted_while_nobody_took_the_job(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    leased = await queue.lease_one()
    await queue.pass_time(31)

    assert await queue.succeed(leased)

    rows = await queue.pool.fetch("SELECT late FROM quorra.outcomes WHERE job_id = $1", job_id)
    assert [row["late"] for row in rows] == [True]


async def test_of_two_reports_for_one_lease_the_first_decides(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    leased = await queue.lease_one()

    answers = [await queue.succeed(leased), await queue.fail(leased), await queue.succeed(leased)]

    assert answers == [True, False, False]
    assert await queue.status_of(job_id) == JobStatus.SUCCEEDED


async def test_a_report_that_comes_second_spoils_none_of_the_others_in_its_statement(queue: QueueSpec) -> None:
    job_ids = await queue.submit(4)
    batch = await queue.lease(4)
    assert batch is not None
    first, second, third, fourth = batch.lease_ids()
    await queue.succeed(second)
    await queue.fail(third, non_retryable=True)

    accepted = await queue.settle_all(
        [Report(lease, OutcomeKind.SUCCEEDED, 1) for lease in (first, second, third, fourth)]
    )

    assert accepted == 2
    assert [await queue.status_of(job_id) for job_id in job_ids] == [
        JobStatus.SUCCEEDED, JobStatus.SUCCEEDED, JobStatus.DEAD, JobStatus.SUCCEEDED,
    ]  # fmt: skip


async def test_reports_of_which_all_come_second_are_answered(queue: QueueSpec) -> None:
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    reports = [Report(lease, OutcomeKind.SUCCEEDED, 1) for lease in batch.lease_ids()]

    assert [await queue.settle_all(reports), await queue.settle_all(reports)] == [2, 0]


async def test_two_servers_that_settle_the_same_leases_at_the_same_time_accept_each_once(queue: QueueSpec) -> None:
    await queue.submit(200)
    batch = await queue.lease(200)
    assert batch is not None
    leased = batch.lease_ids()
    overlapping = [
        [Report(lease, OutcomeKind.SUCCEEDED, 1) for lease in part]
        for part in (leased[:150], leased[50:], leased[25:175])
    ]

    accepted = await asyncio.gather(*(queue.settle_all(reports) for reports in overlapping))

    assert sum(accepted) == 200


async def test_a_wrong_secret_or_principal_settles_nothing(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    leased = await queue.lease_one()
    guessed = leased._replace(secret=leased.job_id)

    answers = [await queue.succeed(guessed), await queue.settle(leased, OutcomeKind.SUCCEEDED, by="somebody-else")]

    assert answers == [False, False]
    assert await queue.status_of(job_id) == JobStatus.LEASED


async def test_a_start_with_a_guessed_secret_charges_nothing(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    leased = await queue.lease_one()

    await queue.start(leased._replace(secret=leased.job_id))

    assert (JobStatus.LEASED, 0) == ((job := await queue.job(job_id)).status, job.attempts)


@pytest.mark.parametrize("guess_comes_first", [True, False])
async def test_a_guessed_secret_neither_rides_along_with_the_right_one_nor_spoils_it(
    queue: QueueSpec, guess_comes_first: bool
) -> None:
    """Reports of many callers share a statement."""
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    first, second = batch.lease_ids()
    guess, right = (
        Report(first._replace(secret=first.job_id), OutcomeKind.SUCCEEDED),
        Report(second, OutcomeKind.SUCCEEDED),
    )

    accepted = await queue.settle_all([guess, right] if guess_comes_first else [right, guess])
    await leases.mark_started(queue.pool, PRINCIPAL, [(first._replace(secret=first.job_id), 0), (first, 0)])

    assert accepted == 1
    assert await queue.status_of(second.job_id) == JobStatus.SUCCEEDED
    assert await queue.status_of(first.job_id) == JobStatus.PROCESSING


async def test_a_lease_id_of_another_job_settles_nothing(queue: QueueSpec) -> None:
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    first, second = batch.lease_ids()

    assert not await queue.succeed(first._replace(job_hex=second.job_hex))


async def test_the_last_error_is_the_last_deliverys_whatever_the_clock_said(queue: QueueSpec) -> None:
    """Numbers of batches are times: after PostgreSQL's clock was put back, those of later leases are lower."""
    job_id = await queue.submit_one(max_retries=5)
    await queue.fail(await queue.lease_one(), "the first", delay_ms=0)
    await queue.pool.fetch(
        "UPDATE quorra.outcomes SET batch = quorra.batch_at(now() + interval '1 hour') WHERE job_id = $1", job_id
    )

    await queue.fail(await queue.lease_one(), "the second", delay_ms=0)

    assert (await queue.job(job_id)).last_error == "the second"


async def test_reports_of_several_leases_in_any_order_each_settle_their_own_job(queue: QueueSpec) -> None:
    await queue.submit(12)
    batches = [await queue.lease(4) for _ in range(3)]
    leased = [batch.lease_ids() for batch in batches if batch is not None]
    in_turn = [lease for lot in zip(*leased, strict=True) for lease in lot]
    reports = [
        Report(lease, OutcomeKind.FAILED, 1, error=lease.job_hex, non_retryable=True)
        if number % 2
        else Report(lease, OutcomeKind.SUCCEEDED, 1, result=f'"{lease.job_hex}"')
        for number, lease in enumerate(in_turn)
    ]

    accepted = await queue.settle_all(reports)

    assert accepted == len(reports) == 12
    for report in reports:
        job = await queue.job(report.lease.job_id)
        assert (job.result, job.last_error) == (report.result, report.error)


@pytest.mark.parametrize("kind", [OutcomeKind.RELEASED, OutcomeKind.SNOOZED])
async def test_a_release_or_snooze_gives_the_attempt_back(queue: QueueSpec, kind: OutcomeKind) -> None:
    job_id = await queue.submit_one()
    leased = await queue.lease_one()
    await queue.start(leased)

    await queue.settle(leased, kind, delay_ms=5000)

    job = await queue.job(job_id)
    assert (job.status, job.attempts, job.deliveries) == (JobStatus.PENDING, 0, 1)
    assert pytest.approx(await queue.seconds_until_due(job_id), abs=0.5) == 5


async def test_a_handler_can_choose_the_delay_or_give_up(queue: QueueSpec) -> None:
    patient, hopeless = await queue.submit_one(), await queue.submit_one()

    await queue.fail(await queue.lease_one(), delay_ms=60_000)
    await queue.fail(await queue.lease_one(), non_retryable=True)

    assert pytest.approx(await queue.seconds_until_due(patient), abs=0.5) == 60
    assert (
        await queue.status_of(hopeless),
        (await queue.job(hopeless)).dead_because,
    ) == (JobStatus.DEAD, "non_retryable")


async def test_a_batch_settles_with_mixed_outcomes_and_is_closed_when_all_have_ended(queue: QueueSpec) -> None:
    from quorra_server.storage import leases

    ids = await queue.submit(3)
    batch = await queue.lease(3)
    assert batch is not None
    first, second, third = batch.lease_ids()

    await queue.settle_all([Report(first, OutcomeKind.SUCCEEDED, 1), Report(second, OutcomeKind.FAILED, 1, error="no")])
    assert set() == await leases.close_batches(queue.pool, None)
    await queue.settle_all([Report(third, OutcomeKind.CANCELLED, 1)])
    closed = await leases.close_batches(queue.pool, None)

    assert {batch.batch} == closed
    assert [await queue.status_of(job) for job in ids] == [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]


async def test_a_terminal_outcome_frees_the_unique_key(queue: QueueSpec) -> None:
    from quorra_server.storage import keys

    job_id = await queue.submit_one(unique_key="welcome:42")
    key = keys.Key(keys.LIVE_SCOPE, "welcome:42")
    await keys.claim_keys(queue.pool, [(key, job_id)])

    await queue.succeed(await queue.lease_one())

    assert await keys.find_keys(queue.pool, [key]) == {}
