"""Workers as operators see them: by their hello, their heartbeats, and their open streams."""

from datetime import timedelta

from quorra_server.services.loops.beat_streams import BeatStreams
from quorra_server.storage import workers
from quorra_server.storage.workers import WorkerHello

from tests.support.queue_spec import QueueSpec

LATELY = timedelta(minutes=10)


def _hello(worker: str, boot_id: str = "1") -> WorkerHello:
    return WorkerHello(worker=worker, boot_id=boot_id, node="n")


async def _arrive(queue: QueueSpec, *names: tuple[str, str]) -> None:
    """Let workers say hello, an hour ago."""
    for worker, boot_id in names:
        await workers.record_worker(queue.pool, _hello(worker, boot_id))
    await queue.pool.fetch("UPDATE quorra.workers SET last_beat_at = last_beat_at - interval '1 hour'")


async def _heard_of(queue: QueueSpec) -> set[tuple[str, str]]:
    return {(seen.worker, seen.boot_id) for seen in await workers.list_workers(queue.pool, LATELY)}


async def test_workers_are_seen_by_their_open_streams(queue: QueueSpec) -> None:
    await _arrive(queue, ("first", "1"), ("second", "1"), ("second", "2"), ("third", "1"))

    known = await workers.beat_streams(queue.pool, [("first", "1"), ("second", "2"), ("unknown", "1")])

    assert {("first", "1"), ("second", "2")} == known == await _heard_of(queue)


async def test_an_open_stream_leaves_what_a_heartbeat_said(queue: QueueSpec) -> None:
    await _arrive(queue, ("first", "1"))
    await workers.beat_worker(queue.pool, "first", "1", running=3)

    await workers.beat_streams(queue.pool, [("first", "1")])

    assert [3] == [seen.running for seen in await workers.list_workers(queue.pool, LATELY)]


async def test_a_round_notes_the_streams_that_are_open_and_no_others(queue: QueueSpec) -> None:
    """Also one whose row is gone, after an outage or a failover: it says hello but once."""
    await _arrive(queue, ("open", "1"), ("closed", "1"))
    beating = BeatStreams(queue.pool)

    with beating.seeing(_hello("closed")):
        pass
    with beating.seeing(_hello("open")), beating.seeing(_hello("forgotten")), beating.seeing(_hello("open")):
        await beating.run_once()

    assert {("open", "1"), ("forgotten", "1")} == await _heard_of(queue)
