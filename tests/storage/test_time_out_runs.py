"""Runs past a timeout of their own end, although their lease lives."""

import asyncio

import pytest
from quorra_server.domain.job import LeaseId
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.storage import leases

from tests.support.queue_spec import PRINCIPAL, TIMEOUT_GRACE_SECONDS, QueueSpec

TIMEOUT_SECONDS = 10
PAST_IT = TIMEOUT_SECONDS + TIMEOUT_GRACE_SECONDS + 1


async def _started(queue: QueueSpec, **fields: object) -> LeaseId:
    await queue.submit_one(timeout_ms=TIMEOUT_SECONDS * 1000, **fields)
    leased = await queue.lease_one(lease_ms=60_000)
    await queue.start(leased)
    return leased


async def test_a_run_past_its_timeout_and_the_grace_is_a_failed_run_and_backs_off(queue: QueueSpec) -> None:
    leased = await _started(queue)
    await queue.pass_time(TIMEOUT_SECONDS + 1)
    assert [] == await queue.time_out(), "within the grace a worker that lives reports it itself"
    await queue.pass_time(TIMEOUT_GRACE_SECONDS)

    ended = await queue.time_out()

    job = await queue.job(leased.job_id)
    assert [leased] == [run.lease for run in ended]
    assert (JobStatus.FAILED, 1, "timeout after 10 s") == (job.status, job.attempts, job.last_error)
    assert pytest.approx(await queue.seconds_until_due(leased.job_id), abs=0.5) == 2
    assert ["expired"] == await queue.history_of(leased.job_id)
    assert {JobStatus.FAILED: 1} == await queue.counts()


async def test_after_the_last_run_it_is_dead_and_its_unique_key_is_free(queue: QueueSpec) -> None:
    from quorra_server.storage import keys

    leased = await _started(queue, max_retries=0, unique_key="k")
    key = keys.Key(keys.LIVE_SCOPE, "k")
    await keys.claim_keys(queue.pool, [(key, leased.job_id)])
    await queue.pass_time(PAST_IT)

    await queue.time_out()

    job = await queue.job(leased.job_id)
    assert (JobStatus.DEAD, "retries_exhausted") == (job.status, job.dead_because)
    assert {} == await keys.find_keys(queue.pool, [key])


async def test_the_rest_of_the_batch_lives_on(queue: QueueSpec) -> None:
    await queue.submit(1, timeout_ms=TIMEOUT_SECONDS * 1000)
    await queue.submit(2)
    batch = await queue.lease(3, lease_ms=60_000)
    assert batch is not None
    timed, *others = batch.lease_ids()
    await queue.start(timed, others[0])
    await queue.pass_time(PAST_IT)

    ended = await queue.time_out()

    assert [timed] == [run.lease for run in ended]
    assert await queue.renew(others[0])
    assert [False, True, True] == [await queue.succeed(lease) for lease in (timed, *others)]


async def test_a_job_that_has_not_started_has_no_timeout_yet(queue: QueueSpec) -> None:
    await queue.submit_one(timeout_ms=TIMEOUT_SECONDS * 1000)
    await queue.lease_one(lease_ms=60_000)
    await queue.pass_time(PAST_IT)

    assert [] == await queue.time_out()


async def test_a_job_that_sql_submitted_has_its_timeout_too(queue: QueueSpec) -> None:
    await queue.pool.fetch("SELECT id FROM quorra.enqueue('task', '{}'::text, timeout_seconds => 10)")
    leased = await queue.lease_one(lease_ms=60_000)
    await queue.start(leased)
    await queue.pass_time(PAST_IT)

    assert [leased] == [run.lease for run in await queue.time_out()]


async def test_a_batch_without_timeouts_is_not_looked_at(queue: QueueSpec) -> None:
    await queue.submit(2)
    await queue.lease(2)

    assert [] == await queue.pool.fetch("SELECT batch FROM quorra.leases WHERE timed")


@pytest.mark.parametrize("again", ["settle", "expire", "replay"])
async def test_the_next_run_has_its_timeout_again(queue: QueueSpec, again: str) -> None:
    leased = await _started(queue, max_retries=0 if again == "replay" else 3)
    if again == "expire":
        await queue.pass_time(61)
        await queue.expire()
    else:
        await queue.fail(leased)
    if again == "replay":
        from quorra_server.storage import jobs

        await jobs.replay_dead(queue.pool, [leased.job_id])
    await queue.pass_time(10)
    second = await queue.lease_one(lease_ms=60_000)
    await queue.start(second)
    await queue.pass_time(PAST_IT)

    assert [second] == [run.lease for run in await queue.time_out()]


async def test_a_run_may_take_as_much_longer_as_its_handler_asked_for(queue: QueueSpec) -> None:
    leased = await _started(queue)
    await leases.extend_run(queue.pool, PRINCIPAL, leased, 30_000)
    await leases.extend_run(queue.pool, PRINCIPAL, leased, 20_000)  # an older word that was repeated

    await queue.pass_time(PAST_IT + 20)
    assert [] == await queue.time_out()
    await queue.pass_time(10)
    assert [leased] == [run.lease for run in await queue.time_out()]


async def test_only_the_lease_itself_can_extend_its_run(queue: QueueSpec) -> None:
    leased = await _started(queue)
    await leases.extend_run(queue.pool, "somebody-else", leased, 60_000)
    await leases.extend_run(queue.pool, PRINCIPAL, leased._replace(secret=leased.job_id), 60_000)
    await queue.pass_time(PAST_IT)

    assert [leased] == [run.lease for run in await queue.time_out()]


async def test_of_a_timeout_and_a_report_at_once_exactly_one_decides(queue: QueueSpec) -> None:
    for _ in range(10):
        leased = await _started(queue, max_retries=0)
        await queue.pass_time(PAST_IT)

        accepted, *sweeps = await asyncio.gather(
            queue.settle(leased, OutcomeKind.SUCCEEDED, run_ms=1), queue.time_out(), queue.time_out()
        )

        assert 1 == int(accepted) + sum(len(ended) for ended in sweeps)
        assert 1 == len(await queue.history_of(leased.job_id))


async def test_a_batch_that_a_users_transaction_settles_is_passed_by_without_waiting(queue: QueueSpec) -> None:
    from quorra_server.domain.job import Report

    settling, hanging = await _started(queue), await _started(queue)
    await queue.pass_time(PAST_IT)

    async with queue.pool.transaction() as transaction:
        await leases.settle_attempts(transaction, PRINCIPAL, [Report(settling, OutcomeKind.SUCCEEDED, 1)])
        ended = await asyncio.wait_for(queue.time_out(), 5)

    assert [hanging] == [run.lease for run in ended]
    assert JobStatus.SUCCEEDED == await queue.status_of(settling.job_id)
