"""Operators' moves: cancel, retry, replay, reschedule, purge; and the counts that follow all of them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.storage import history, jobs, keys, leases, queues
from quorra_server.storage.keys import Key

from tests.support.queue_spec import LEASE_SECONDS, PRINCIPAL, QueueSpec


async def test_cancelling_a_waiting_job_is_final_and_twice_is_fine(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()

    assert [await queue.cancel(job_id), await queue.cancel(job_id)] == [1, 0]

    assert await queue.status_of(job_id) == JobStatus.CANCELLED
    assert await queue.lease() is None


async def test_cancelling_a_waiting_job_frees_its_unique_key(queue: QueueSpec) -> None:
    key = Key(keys.LIVE_SCOPE, "only-one")
    job_id = await queue.submit_one(unique_key="only-one")
    await keys.claim_keys(queue.pool, [(key, job_id)])

    await queue.cancel(job_id)

    assert {} == await keys.find_keys(queue.pool, [key])


async def test_cancelling_a_running_job_ends_its_lease_and_spares_its_neighbours(queue: QueueSpec) -> None:
    cancelled, spared = await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    await queue.start(*batch.lease_ids())

    await queue.cancel(cancelled)

    assert [await queue.succeed(lease) for lease in batch.lease_ids()] == [False, True]
    assert [await queue.status_of(job) for job in (cancelled, spared)] == [JobStatus.CANCELLED, JobStatus.SUCCEEDED]


async def test_retry_lets_a_job_that_backs_off_run_now(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    await queue.fail(await queue.lease_one())

    assert {job_id} == (await jobs.retry_waiting(queue.pool, [job_id])).keys()

    assert await queue.status_of(job_id) == JobStatus.PENDING
    assert (await queue.lease_one()).job_id == job_id


async def test_of_two_replays_of_a_dead_job_one_wins_and_it_starts_a_new_life(queue: QueueSpec) -> None:
    job_id = await queue.fail_until_dead()

    answers = await asyncio.gather(*(jobs.replay_dead(queue.pool, [job_id]) for _ in range(5)))

    job = await queue.job(job_id)
    assert sum(len(answer) for answer in answers) == 1
    assert (job.status, job.attempts, job.generation) == (JobStatus.PENDING, 0, 2)
    assert job.last_error == "it broke"


async def test_a_replayed_job_stays_dead_while_another_one_has_its_unique_key(queue: QueueSpec) -> None:
    from quorra_server.storage import keys

    job_id = await queue.fail_until_dead(unique_key="k")
    other = await queue.submit_one(unique_key="k")
    await keys.claim_keys(queue.pool, [(keys.Key(keys.LIVE_SCOPE, "k"), other)])

    assert await jobs.replay_dead(queue.pool, [job_id]) == {}

    assert await queue.status_of(job_id) == JobStatus.DEAD


async def test_a_waiting_job_can_be_moved_and_reprioritised(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()

    await jobs.reschedule_jobs(queue.pool, [job_id], queue="express", priority=9, max_retries=1)

    job = await queue.job(job_id)
    assert (job.queue, job.priority, job.max_retries) == ("express", 9, 1)
    assert (await queue.lease_one(queue="express")).job_id == job_id
    assert await queue.counts("default") == {}


async def test_purging_removes_jobs_with_their_history(queue: QueueSpec) -> None:
    await queue.submit(3)
    dead = await queue.fail_until_dead(queue="other")
    await leases.close_batches(queue.pool, None)

    assert [await jobs.purge_waiting(queue.pool, "default", limit=2) for _ in range(3)] == [2, 1, 0]
    assert await jobs.purge_dead(queue.pool, [dead]) == 1

    assert await jobs.get_jobs(queue.pool, [dead]) == []
    assert await queue.history_of(dead) == []
    assert (await queue.counts(), await queue.counts("other")) == ({}, {})


@pytest.mark.parametrize("ending", ["dead", "waiting"])
async def test_a_job_that_is_purged_while_its_batch_is_open_stays_over(queue: QueueSpec, ending: str) -> None:
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    purged, running = batch.lease_ids()
    await queue.start(running)
    await queue.fail(purged, non_retryable=ending == "dead")

    if ending == "dead":
        assert 1 == await jobs.purge_dead(queue.pool, [purged.job_id])
        assert 0 == await jobs.purge_dead(queue.pool, [purged.job_id])
    else:
        assert 1 == await jobs.purge_waiting(queue.pool, "default", limit=9)

    assert not await queue.fail(purged, non_retryable=True), "the same report came again"
    assert {JobStatus.PROCESSING: 1} == await queue.counts()
    await queue.pass_time(LEASE_SECONDS + 1)
    assert [running] == [expired.lease for expired in await queue.expire()]
    assert {JobStatus.FAILED: 1} == await queue.counts()


async def test_a_batch_with_a_purged_job_is_closed_when_the_others_ended(queue: QueueSpec) -> None:
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    purged, running = batch.lease_ids()
    await queue.fail(purged, error="said", non_retryable=True)

    await jobs.purge_dead(queue.pool, [purged.job_id])
    await queue.succeed(running)

    assert {batch.batch} == await leases.close_batches(queue.pool, None)
    assert {JobStatus.SUCCEEDED: 1} == await queue.counts()
    left = await queue.pool.fetch("SELECT error FROM quorra.outcomes WHERE job_id = $1", purged.job_id)
    assert [None] == [row["error"] for row in left]


async def test_purging_leaves_nothing_that_a_handler_said(queue: QueueSpec) -> None:
    """Checkpoints and log lines can hold personal data, just as payloads can."""
    kept = await queue.submit_one(queue="kept")
    dead, waiting = await queue.submit_one(max_retries=0), await queue.submit_one(queue="waiting")
    for name in ("kept", "default", "waiting"):
        leased = await queue.lease_one(queue=name)
        await history.note_progress(queue.pool, PRINCIPAL, {leased: history.Note(checkpoint="{}")})
        await history.append_logs(queue.pool, PRINCIPAL, [history.LogLine(leased, 1, 0, "info", "said")])
        await (queue.fail(leased) if name == "default" else queue.settle(leased, OutcomeKind.RELEASED))

    assert await jobs.purge_dead(queue.pool, [dead]) == 1
    assert await jobs.purge_waiting(queue.pool, "waiting", limit=10) == 1

    assert {kept} == set(await history.find_notes(queue.pool, [kept, dead, waiting]))
    assert [1, 0, 0] == [len(await history.list_logs(queue.pool, job, limit=9)) for job in (kept, dead, waiting)]


async def test_counts_follow_every_move_and_survive_folding(queue: QueueSpec) -> None:
    await queue.submit(6)
    succeeded, failed, started, _, cancelled = [await queue.lease_one() for _ in range(5)]
    await queue.succeed(succeeded)
    await queue.fail(failed)
    await queue.start(started)
    await queue.cancel(cancelled.job_id)
    expected = {
        JobStatus.PENDING: 1,
        JobStatus.LEASED: 1,
        JobStatus.PROCESSING: 1,
        JobStatus.FAILED: 1,
        JobStatus.SUCCEEDED: 1,
        JobStatus.CANCELLED: 1,
    }

    before = await queue.counts()
    await queues.fold_counts(queue.pool, limit=1000)

    assert expected == before
    assert expected == await queue.counts()


async def test_pages_have_no_gap_and_no_double_for_every_status(queue: QueueSpec) -> None:
    await queue.submit(7)
    for _ in range(7):
        await queue.succeed(await queue.lease_one())
    await queue.submit(5)

    for status, count in ((None, 12), (JobStatus.SUCCEEDED, 7), (JobStatus.PENDING, 5)):
        seen: list[object] = []
        after = None
        while page := await jobs.list_jobs(queue.pool, jobs.JobFilter(status=status), limit=2, after=after):
            seen.extend(position.job_id for position in page)
            after = page[-1]
        assert count == len(seen) == len(set(seen))


async def test_the_oldest_due_job_is_found_behind_more_urgent_ones(queue: QueueSpec) -> None:
    now = datetime.now(UTC)
    await queue.submit(3, priority=5, run_at=now - timedelta(seconds=10))
    await queue.submit_one(priority=0, run_at=now - timedelta(hours=1))
    await queue.submit_one(priority=-5, run_at=now + timedelta(hours=2))

    waited = await queues.oldest_waiting(queue.pool, ["default", "empty"])

    assert waited is not None
    assert 3_600 <= waited < 3_700


async def test_no_job_that_is_due_has_waited_for_no_time(queue: QueueSpec) -> None:
    await queue.submit_one(run_at=datetime.now(UTC) + timedelta(hours=1))

    assert await queues.oldest_waiting(queue.pool, ["default"]) is None
