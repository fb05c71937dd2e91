"""Closing: batches that are known to be over go at once, others are found."""

import pytest
from quorra_server.services.loops.close_batches import ROUNDS_PER_LOOK_AT_ALL, CloseBatches

from tests.support.queue_spec import QueueSpec


async def _open_batches(queue: QueueSpec) -> list[int]:
    return [row["batch"] for row in await queue.pool.fetch("SELECT batch FROM quorra.leases ORDER BY batch")]


@pytest.mark.parametrize("last_to_end", [0, 1, 2])
async def test_a_batch_is_open_until_its_last_job_ended_whichever_that_is(queue: QueueSpec, last_to_end: int) -> None:
    await queue.submit(3)
    batch = await queue.lease(3)
    assert batch is not None
    closing, left = CloseBatches(queue.pool), batch.lease_ids()
    last = left.pop(last_to_end)

    for lease in left:
        await queue.succeed(lease)
    closing.all_ended(batch.batch)
    await closing.run_once()
    assert [batch.batch] == await _open_batches(queue)
    await queue.succeed(last)
    closing.all_ended(batch.batch)
    await closing.run_once()

    assert [] == await _open_batches(queue)


async def test_a_round_looks_only_at_batches_that_are_said_to_be_over(queue: QueueSpec) -> None:
    await queue.submit(2)
    first, second = await queue.lease_one(), await queue.lease_one()
    closing = CloseBatches(queue.pool)

    await queue.succeed(first)
    await queue.succeed(second)
    closing.all_ended(second.batch)
    await closing.run_once()

    assert [first.batch] == await _open_batches(queue)


async def test_a_batch_that_nobody_named_is_found_within_two_seconds_of_rounds(queue: QueueSpec) -> None:
    await queue.submit(2)
    first, second = await queue.lease_one(), await queue.lease_one()
    await queue.succeed(first)
    closing = CloseBatches(queue.pool)

    for _ in range(ROUNDS_PER_LOOK_AT_ALL):
        await closing.run_once()

    assert [second.batch] == await _open_batches(queue)
