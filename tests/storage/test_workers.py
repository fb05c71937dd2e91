"""Workers as operators see them: by their hello, their heartbeats, and their open streams."""

from datetime import timedelta

from quorra_server.storage import workers
from quorra_server.storage.workers import WorkerHello

from tests.support.queue_spec import QueueSpec

LATELY = timedelta(minutes=10)


async def _arrive(queue: QueueSpec, *names: tuple[str, str]) -> None:
    """Let workers say hello, an hour ago."""
    for worker, boot_id in names:
        await workers.record_worker(queue.pool, WorkerHello(worker=worker, boot_id=boot_id, node="n"))
    await queue.pool.fetch("UPDATE quorra.workers SET last_beat_at = last_beat_at - interval '1 hour'")


async def _heard_of(queue: QueueSpec) -> set[tuple[str, str]]:
    return {(seen.worker, seen.boot_id) for seen in await workers.list_workers(queue.pool, LATELY)}


async def test_workers_are_seen_by_their_open_streams(queue: QueueSpec) -> None:
    await _arrive(queue, ("first", "1"), ("second", "1"), ("second", "2"), ("third", "1"))

    await workers.beat_streams(queue.pool, [("first", "1"), ("second", "2"), ("never-said-hello", "1")])

    assert {("first", "1"), ("second", "2")} == await _heard_of(queue)


async def test_an_open_stream_leaves_what_a_heartbeat_said(queue: QueueSpec) -> None:
    await _arrive(queue, ("first", "1"))
    await workers.beat_worker(queue.pool, "first", "1", running=3)

    await workers.beat_streams(queue.pool, [("first", "1")])

    assert [3] == [seen.running for seen in await workers.list_workers(queue.pool, LATELY)]
