"""What handlers say while they run: heard from the holder of a live lease only."""

import pytest
from quorra_server.domain.job import LeaseId
from quorra_server.storage import history
from quorra_server.storage.history import LogLine, Note

from tests.support.queue_spec import PRINCIPAL, QueueSpec


async def _say(queue: QueueSpec, lease: LeaseId, word: str, *, by: str = PRINCIPAL) -> None:
    note = Note(checkpoint=f'"{word}"', progress_done=1, progress_total=2, progress_note=word)
    await history.note_progress(queue.pool, by, {lease: note})
    await history.append_logs(queue.pool, by, [LogLine(lease, 1, 0, "info", word)])


async def _heard(queue: QueueSpec, lease: LeaseId) -> tuple[list[str | None], list[str]]:
    notes = await history.find_notes(queue.pool, [lease.job_id])
    lines = await history.list_logs(queue.pool, lease.job_id, limit=10)
    return [note.checkpoint for note in notes.values()], [line.message for line in lines]


async def test_the_holder_of_a_lease_is_heard(queue: QueueSpec) -> None:
    await queue.submit_one()
    leased = await queue.lease_one()

    await _say(queue, leased, "half")

    assert (['"half"'], ["half"]) == await _heard(queue, leased)


async def test_a_note_leaves_what_it_does_not_speak_of(queue: QueueSpec) -> None:
    await queue.submit_one()
    leased = await queue.lease_one()
    await _say(queue, leased, "half")

    await history.note_progress(queue.pool, PRINCIPAL, {leased: Note(progress_done=2)})

    note = (await history.find_notes(queue.pool, [leased.job_id]))[leased.job_id]
    assert Note(checkpoint='"half"', progress_done=2, progress_total=2, progress_note="half") == note


@pytest.mark.parametrize("wrong", ["principal", "secret", "job", "ordinal", "batch"])
async def test_nobody_else_is_heard(queue: QueueSpec, wrong: str) -> None:
    other = await queue.submit_one(queue="other")
    await queue.submit_one()
    leased = await queue.lease_one()
    forged = {
        "principal": leased,
        "secret": leased._replace(secret=leased.job_id),
        "job": leased._replace(job_hex=other.hex),
        "ordinal": leased._replace(ordinal=2),
        "batch": leased._replace(batch=leased.batch + 1),
    }[wrong]

    await _say(queue, forged, "lie", by="somebody-else" if wrong == "principal" else PRINCIPAL)

    assert ([], []) == await _heard(queue, leased)
    assert ([], []) == await _heard(queue, forged)


@pytest.mark.parametrize("end", ["settle", "cancel", "expire"])
async def test_a_run_that_is_over_cannot_overwrite_what_the_next_one_says(queue: QueueSpec, end: str) -> None:
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    leased = batch.lease_ids()[0]
    await _say(queue, leased, "before")
    if end == "settle":
        await queue.fail(leased)
    elif end == "cancel":
        await queue.cancel(leased.job_id)
    else:
        await queue.pass_time(31)
        await queue.expire()

    await _say(queue, leased, "after")

    assert (['"before"'], ["before"]) == await _heard(queue, leased)
