"""The worker's stream, where a real server cannot be made to end it at the wrong moment."""

import asyncio
from typing import Any

import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk.session import Session

from tests.support.scripted_server import Deaf

SECONDS_MAX = 5.0


async def test_a_stream_that_ended_before_a_message_was_written_is_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quorra_worker_sdk.session.RECONNECT_SECONDS", (0.0, 0.0))
    opened: asyncio.Queue[_OverChannel] = asyncio.Queue()

    def open_channel() -> Any:
        channel = _OverChannel()
        opened.put_nowait(channel)
        return channel

    running = asyncio.create_task(Session(open_channel, (), pb.Hello, Deaf()).run())
    try:
        async with asyncio.timeout(SECONDS_MAX):
            for _ in range(2):
                await opened.get()
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class _OverCall:
    """A call that is over, as grpc.aio shows it to a writer whose reader has not yet been woken."""

    async def write(self, _: pb.WorkerMessage) -> None:
        raise asyncio.InvalidStateError("RPC already finished.")

    async def read(self) -> pb.ServerMessage:
        await asyncio.Event().wait()
        raise AssertionError

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    async def details(self) -> str:
        return "the server is gone"

    def cancel(self) -> None:
        """Do nothing: it is over."""


class _OverChannel:
    async def __aenter__(self) -> "_OverChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def stream_stream(self, *_: Any, **__: Any) -> Any:
        return lambda **_: _OverCall()

    unary_unary = unary_stream = stream_unary = stream_stream
