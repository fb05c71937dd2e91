"""SAQ on Redis: asynchronous jobs; a job that has succeeded is deleted at once."""

from typing import Any

from saq import Queue, Worker

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, Adapter, drive, payload, run_async
from benchmarks.peers.adapters.record import note

DELETE_AT_ONCE = -1


async def noop(context: Any, *, id: int, pad: str) -> None:
    note(id)


class OnSaq(Adapter):
    async def open(self) -> None:
        self._queue = Queue.from_url(URL, name=QUEUE, max_concurrent_ops=SETTINGS["operations"])
        await self._queue.connect()

    async def submit(self, number: int) -> None:
        await self._queue.enqueue("noop", ttl=DELETE_AT_ONCE, **payload(number))

    def work(self) -> None:
        run_async(_work())


async def _work() -> None:
    queue = Queue.from_url(URL, name=QUEUE, max_concurrent_ops=SETTINGS["operations"])
    await Worker(queue, functions=[("noop", noop)], concurrency=SETTINGS["concurrency"]).start()


if __name__ == "__main__":
    drive(OnSaq())
