"""How long a worker waits before it opens its stream again: longer each time, and never in step with all others."""

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk.session import PING_SECONDS_DEFAULT, Session

from tests.support.scripted_server import Deaf

SECONDS_MAX = 5.0


class Pauses:
    """Stands in for `asyncio` in the session: all that is asked of it is passed on, but for pauses, which are noted."""

    def __init__(self, count: int) -> None:
        self.noted: list[float] = []
        self.are_over = asyncio.Event()
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        if seconds == PING_SECONDS_DEFAULT:
            await asyncio.sleep(seconds)
        elif len(self.noted) < self._count:
            self.noted.append(seconds)
            await asyncio.sleep(0)
        else:
            self.are_over.set()
            await asyncio.Event().wait()


class Dice:
    """Throws what a test wants, and notes within which bounds it was to."""

    def __init__(self, throws: Iterable[float]) -> None:
        self.bounds: set[tuple[float, float]] = set()
        self._throws = iter(throws)

    def uniform(self, low: float, high: float) -> float:
        self.bounds.add((low, high))
        return next(self._throws, low)


class _ServerThatIsAway:
    """A channel on which every call fails at once."""

    async def __aenter__(self) -> "_ServerThatIsAway":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def stream_stream(self, *_: Any, **__: Any) -> Any:
        return lambda **_: SimpleNamespace(write=self._fail, read=self._fail, cancel=lambda: None)

    unary_unary = unary_stream = stream_unary = stream_stream

    async def _fail(self, *_: object) -> None:
        metadata = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, details="the server is away")


async def _pauses(monkeypatch: pytest.MonkeyPatch, dice: Dice, count: int) -> list[float]:
    """Return how long a session waits between its tries to reach a server that is away."""
    pauses = Pauses(count)
    monkeypatch.setattr("quorra_worker_sdk.session.random", dice)
    monkeypatch.setattr("quorra_worker_sdk.session.asyncio", pauses)
    away: Any = _ServerThatIsAway
    running = asyncio.create_task(Session(away, (), pb.Hello, Deaf()).run())
    try:
        await asyncio.wait_for(pauses.are_over.wait(), SECONDS_MAX)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return pauses.noted


async def test_pauses_double_up_to_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = await _pauses(monkeypatch, Dice([1.25] * 8), 8)

    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0] == pytest.approx([pause / 1.25 for pause in pauses])


async def test_each_pause_is_shortened_or_lengthened_by_up_to_a_half_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that lost one server would come back to the other one all at once."""
    dice = Dice([0.5, 1.5, 0.75])

    pauses = await _pauses(monkeypatch, dice, 3)

    assert {(0.5, 1.5)} == dice.bounds
    assert [0.05, 0.3, 0.3] == pytest.approx(pauses)
