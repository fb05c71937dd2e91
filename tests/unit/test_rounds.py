"""Background rounds go on, whatever one of them met: an error that nobody foresaw stops no lane, no poll, no start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from quorra_server.domain.errors import StorageUnavailable
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import LeaseBatch, LeasedJob, LeaseId
from quorra_server.observability.metrics import Metrics
from quorra_server.services.dispatch import Dispatcher, Stream, Subscription
from quorra_server.services.starts import StartsBuffer
from quorra_server.storage import history, leases, queues

SECONDS_MAX = 10.0
POLL_SECONDS = 0.01


class Broken:
    """A statement that fails some times, answers once, and then finds nothing."""

    def __init__(self, *errors: Exception, answer: Any, nothing: Any = None) -> None:
        self.errors, self.answer, self.nothing = list(errors), answer, nothing
        self.calls = 0

    async def __call__(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        answer, self.answer = self.answer, self.nothing
        return answer


async def test_a_lane_whose_lease_met_a_bug_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "lease_jobs", Broken(RuntimeError("a bug"), answer=_batch(deliveries=1)))
    monkeypatch.setattr(queues, "find_due_queues", Broken(answer=["queue"], nothing=["queue"]))

    async with _dispatching() as delivered:
        assert 1 == len((await delivered.get()).jobs)


async def test_a_poll_that_met_a_bug_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    polled = Broken(RuntimeError("a bug"), answer=["queue"], nothing=["queue"])
    leased = Broken(answer=None)
    monkeypatch.setattr(leases, "lease_jobs", leased)
    monkeypatch.setattr(queues, "find_due_queues", polled)

    async with _dispatching() as delivered:
        while not polled.calls:
            await asyncio.sleep(0)
        leased.answer = _batch(deliveries=1)

        assert 1 == len((await delivered.get()).jobs)


async def test_jobs_are_not_left_lying_because_their_checkpoints_could_not_be_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Broken(StorageUnavailable("away"), answer={})
    monkeypatch.setattr(leases, "lease_jobs", Broken(answer=_batch(deliveries=2)))
    monkeypatch.setattr(history, "find_notes", read)
    monkeypatch.setattr(queues, "find_due_queues", Broken(answer=[], nothing=[]))

    async with _dispatching() as delivered:
        batch = await delivered.get()

    assert (1, 2) == (len(batch.jobs), read.calls)


async def test_starts_that_cannot_be_written_do_not_hold_up_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    written: asyncio.Queue[LeaseId] = asyncio.Queue()

    async def mark_started(_: Any, __: str, starts: Any) -> None:
        for lease, ago_ms in starts:
            if ago_ms >= 1_000_000:
                raise OverflowError("a start that nobody foresaw")
            written.put_nowait(lease)

    monkeypatch.setattr(leases, "mark_started", mark_started)
    buffer = StartsBuffer(SimpleNamespace())  # type: ignore[arg-type]
    buffer.start()
    try:
        buffer.add(_lease(1), "principal", 2_000_000)
        async with asyncio.timeout(SECONDS_MAX):
            while buffer._held:
                await asyncio.sleep(0)
            buffer.add(_lease(2), "principal", 0)

            assert 2 == (await written.get()).ordinal
    finally:
        await buffer.stop()


@asynccontextmanager
async def _dispatching() -> "AsyncIterator[asyncio.Queue[LeaseBatch]]":
    """Dispatch to one stream with room for a job; yields what it is delivered."""
    delivered: asyncio.Queue[LeaseBatch] = asyncio.Queue()
    wakeups: Any = SimpleNamespace(listen=lambda _: None)
    dispatcher = Dispatcher(SimpleNamespace(), wakeups, Metrics("0.0.0", "node"), poll_seconds=POLL_SECONDS)  # type: ignore[arg-type]
    stream = Stream(
        worker="w",
        principal="p",
        lease_ms=30_000,
        subscriptions=[Subscription("queue")],
        types=[],
        deliver=delivered.put_nowait,
        end_leases=lambda *_: None,
    )
    dispatcher.start()
    dispatcher.open_stream(stream, [Subscription("queue")])
    dispatcher.grant(stream, 1, {})
    try:
        async with asyncio.timeout(SECONDS_MAX):
            yield delivered
    finally:
        await dispatcher.stop()


def _batch(deliveries: int) -> LeaseBatch:
    job = LeasedJob(
        id=str(new_job_id()),
        ordinal=1,
        payload="{}",
        run_at_us=0,
        created_at_us=0,
        type="t",
        priority=0,
        attempts=0,
        deliveries=deliveries,
        generation=1,
        max_retries=3,
        timeout_ms=0,
    )
    return LeaseBatch(batch=1, secret=uuid4(), queue="queue", leased_at_us=0, lease_ms=30_000, jobs=[job])


def _lease(ordinal: int) -> LeaseId:
    return LeaseId(1, ordinal, UUID(int=0).hex, UUID(int=0))
