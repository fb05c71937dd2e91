"""How a worker takes signals, in moments that a test of processes cannot hold them in."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk import Worker

from tests.support.scripted_server import SECONDS_MAX, a_job, scripted_server


async def test_a_copy_of_the_first_signal_does_not_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd signals every process of a group, and a parent passes its own signal on to its children."""
    monkeypatch.setattr("quorra_worker_sdk.worker.SAME_SIGNAL_SECONDS", 3600.0)
    may_end = asyncio.Event()
    async with scripted_server() as server:
        worker = Worker(server.address, slots=1, api_key="unused")

        @worker.job("work")
        async def work() -> None:
            await may_end.wait()

        working = asyncio.create_task(worker._run_with_signals())
        stream = await server.stream()
        await stream.welcome()
        await stream.send_jobs(a_job())
        await stream.hear("reports")
        signal.raise_signal(signal.SIGTERM)
        await stream.hear("goodbye")
        signal.raise_signal(signal.SIGTERM)
        # Given back in a later turn of the loop than the one that took the signal.
        late = a_job()
        await stream.send_jobs(late)
        first = await stream.hear_outcome()
        may_end.set()
        second = await stream.hear_outcome()
        await asyncio.wait_for(working, SECONDS_MAX)

    assert late.lease_id == first.lease_id
    assert isinstance(second, pb.Succeeded)


async def test_a_second_signal_ends_a_worker_whose_lifespan_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorra_worker_sdk.worker.SAME_SIGNAL_SECONDS", -1.0)
    is_entering = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        is_entering.set()
        await asyncio.Event().wait()
        yield

    worker = Worker("127.0.0.1:1", api_key="unused", lifespan=lifespan)
    worker.job("work")(_nothing)
    working = asyncio.create_task(worker._run_with_signals())
    await is_entering.wait()

    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    ended, _ = await asyncio.wait([working], timeout=SECONDS_MAX)

    assert {working} == ended


async def test_a_lifespan_that_is_cancelled_by_itself_ends_the_worker_with_its_error() -> None:
    """A service manager starts it again only if it did not end well."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise asyncio.CancelledError("a library gave up")
        yield

    worker = Worker("127.0.0.1:1", api_key="unused", lifespan=lifespan)
    worker.job("work")(_nothing)

    with pytest.raises(asyncio.CancelledError, match="a library gave up"):
        await worker._run_with_signals()


async def _nothing() -> None: ...
