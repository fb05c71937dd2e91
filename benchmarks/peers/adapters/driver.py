"""Drives an adapter: `prepare`, `single`, `bulk`, `latency` and `work`, each a process of its own; answers are JSON."""

import asyncio
import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.adapters import record

URL = os.environ.get("PEER_URL", "")
SETTINGS: dict[str, Any] = json.loads(os.environ.get("PEER_SETTINGS", "{}"))
QUEUE = "bench"
PAD = "x" * 180
PAUSE_SECONDS = 0.02
LOOK_SECONDS = 0.0005
RUN_SECONDS_MAX = 10.0


def payload(number: int) -> dict[str, Any]:
    """Return about 200 bytes of JSON."""
    return {"id": number, "pad": PAD}


class Adapter(ABC):
    """A contestant whose producer API is asynchronous."""

    def prepare(self) -> None:  # noqa: B027 - a store without a schema needs none
        """Make what the contestant needs in an empty database."""

    @abstractmethod
    async def open(self) -> None:
        """Connect as a producer."""

    @abstractmethod
    async def submit(self, number: int) -> None:
        """Submit one job with one call; it is accepted when this returns."""

    async def submit_many(self, numbers: Sequence[int]) -> None:
        """Submit with the contestant's own call for many, where it has one."""
        for number in numbers:
            await self.submit(number)

    @abstractmethod
    def work(self) -> None:
        """Run one worker process until it is killed."""


class BlockingAdapter(ABC):
    """A contestant whose producer API blocks; producers are threads."""

    def prepare(self) -> None:  # noqa: B027 - a store without a schema needs none
        """Make what the contestant needs in an empty database."""

    @abstractmethod
    def submit(self, number: int) -> None:
        """Submit one job with one call; it is accepted when this returns."""

    def submit_many(self, numbers: Sequence[int]) -> None:
        """Submit with the contestant's own call for many, where it has one."""
        for number in numbers:
            self.submit(number)

    @abstractmethod
    def work(self) -> None:
        """Run one worker process until it is killed."""


def drive(adapter: Adapter | BlockingAdapter) -> None:
    """Do what the command line says: `prepare`, `work`, `single N CALLS`, `bulk N CALLS CHUNK` or `latency N`."""
    command, numbers = sys.argv[1], [int(argument) for argument in sys.argv[2:]]
    if command == "prepare":
        adapter.prepare()
    elif command == "work":
        adapter.work()
    elif isinstance(adapter, BlockingAdapter):
        _answer(_BLOCKING[command](adapter, *numbers))
    else:
        run_async(_produce(adapter, command, *numbers))
    sys.stdout.flush()
    # Pools of some libraries hold the interpreter back; there is nothing left to lose.
    os._exit(0)


def run_async(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _produce(adapter: Adapter, command: str, *numbers: int) -> None:
    await adapter.open()
    _answer(await _ASYNC[command](adapter, *numbers))


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer))


async def _single(adapter: Adapter, count: int, calls: int) -> dict[str, Any]:
    await asyncio.gather(*(adapter.submit(count + number) for number in range(calls)))  # connects
    left = iter(range(count))

    async def one() -> None:
        for number in left:
            await adapter.submit(number)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(calls)))
    return _rate(count, began)


async def _bulk(adapter: Adapter, count: int, calls: int, chunk: int) -> dict[str, Any]:
    left = iter(_chunks(count, chunk))

    async def one() -> None:
        for numbers in left:
            await adapter.submit_many(numbers)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(calls)))
    return _rate(count, began)


async def _latency(adapter: Adapter, count: int) -> dict[str, Any]:
    sent = []
    for number in range(count):
        await asyncio.sleep(_pause_seconds(number))
        sent.append(time.monotonic_ns())
        await adapter.submit(number)
        _wait_until_run(number)
    return {"sent": sent}


def _single_blocking(adapter: BlockingAdapter, count: int, calls: int) -> dict[str, Any]:
    adapter.submit(count)  # connects

    def share(start: int) -> None:
        for number in range(start, count, calls):
            adapter.submit(number)

    return _in_threads(calls, count, share)


def _bulk_blocking(adapter: BlockingAdapter, count: int, calls: int, chunk: int) -> dict[str, Any]:
    def share(start: int) -> None:
        for numbers in _chunks(count, chunk)[start::calls]:
            adapter.submit_many(numbers)

    return _in_threads(calls, count, share)


def _latency_blocking(adapter: BlockingAdapter, count: int) -> dict[str, Any]:
    sent = []
    for number in range(count):
        time.sleep(_pause_seconds(number))
        sent.append(time.monotonic_ns())
        adapter.submit(number)
        _wait_until_run(number)
    return {"sent": sent}


def _in_threads(calls: int, count: int, share: Callable[[int], None]) -> dict[str, Any]:
    threads = [threading.Thread(target=share, args=(start,)) for start in range(calls)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _rate(count, began)


def _rate(count: int, began: float) -> dict[str, Any]:
    return {"rate": count / (time.perf_counter() - began), "cpu_seconds": time.process_time()}


def _chunks(count: int, chunk: int) -> list[range]:
    return [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]


def _pause_seconds(number: int) -> float:
    """Spread over the phases of timers and polls, so that none of them flatters anybody."""
    return PAUSE_SECONDS + number * 7919 % 17 / 1000


def _wait_until_run(number: int) -> None:
    path, deadline = Path(record.PATH), time.monotonic() + RUN_SECONDS_MAX
    while record.count(path) <= number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {number} did not run within {RUN_SECONDS_MAX:g} s")
        time.sleep(LOOK_SECONDS)


_ASYNC: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "single": _single,
    "bulk": _bulk,
    "latency": _latency,
}
_BLOCKING: dict[str, Callable[..., dict[str, Any]]] = {
    "single": _single_blocking,
    "bulk": _bulk_blocking,
    "latency": _latency_blocking,
}
