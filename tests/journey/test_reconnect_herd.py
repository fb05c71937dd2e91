"""Five hundred workers lose their server at once: when it is back so are they, soon, and it lives through that."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk.channels import OPTIONS
from quorra_worker_sdk.session import Session

from tests.support.processes import RunningServer, start_server
from tests.support.scripted_server import Deaf
from tests.support.waiting import eventually

WORKERS = 500
SHARE_MIN = 0.95
BACK_SECONDS_MAX = 10.0
# Until then the pauses between two tries have grown to their longest.
TRIES_MIN = 8


class Herd:
    """Sessions of the SDK, each with a connection of its own, and when each was welcomed last."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.tries: Counter[int] = Counter()
        self.welcomed_at: dict[int, float] = {}
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Herd":
        self._running = [asyncio.create_task(self._session(number).run()) for number in range(WORKERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def until_all_are_welcomed(self) -> list[float]:
        """Wait until all are welcomed, and return when each was, in order."""

        async def look() -> bool:
            return len(self.welcomed_at) == WORKERS

        await eventually(look, f"all {WORKERS} are welcomed", timeout=60)
        return sorted(self.welcomed_at.values())

    def forget(self) -> None:
        self.tries.clear()
        self.welcomed_at.clear()

    async def all_tried(self, times: int) -> bool:
        return all(self.tries[number] >= times for number in range(WORKERS))

    def _session(self, number: int) -> Session:
        def channel() -> grpc.aio.Channel:
            self.tries[number] += 1
            # Channels of one process to one server would share a connection; five hundred workers do not.
            options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            return grpc.aio.insecure_channel(self._server.grpc_address, options=options)

        def hello() -> pb.Hello:
            return pb.Hello(
                worker_id=f"herd-{number}", boot_id="boot", slots=1, queues=[pb.QueueSubscription(name="default")]
            )

        return Session(channel, self._server.metadata, hello, _Member(self, number))


class _Member(Deaf):
    def __init__(self, herd: Herd, number: int) -> None:
        self._herd, self._number = herd, number

    def connected(self, welcome: pb.Welcome) -> None:
        self._herd.welcomed_at.setdefault(self._number, time.monotonic())


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_most_of_five_hundred_workers_are_back_ten_seconds_after_their_killed_server(database_url: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(start_server(database_url))
        again = start_server(database_url, http_port=_port(first.http_url), grpc_port=_port(first.grpc_address))
        async with Herd(first) as herd:
            await herd.until_all_are_welcomed()
            first.signal(signal.SIGKILL)
            herd.forget()
            await eventually(lambda: herd.all_tried(TRIES_MIN), "all have tried often", timeout=60)

            # In a thread: the herd goes on trying meanwhile.
            second = await asyncio.to_thread(stack.enter_context, again)
            ready_at = time.monotonic()
            moments = await herd.until_all_are_welcomed()
            was_alive = second.is_alive

    seconds = [moment - ready_at for moment in moments]
    print(f"back after the server was ready: {_told(seconds)}")
    assert was_alive
    assert seconds[int(SHARE_MIN * WORKERS) - 1] < BACK_SECONDS_MAX


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _told(seconds: Sequence[float]) -> str:
    half, most = seconds[len(seconds) // 2], seconds[int(SHARE_MIN * len(seconds)) - 1]
    return f"half in {half:.1f} s, {SHARE_MIN:.0%} in {most:.1f} s, all in {seconds[-1]:.1f} s"
