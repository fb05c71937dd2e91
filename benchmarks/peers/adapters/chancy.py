"""Chancy: jobs on the event loop of the worker, and eager polling, which fetches again while there is work."""

import asyncio
import logging
from collections.abc import Sequence

from chancy import Chancy, Queue, Worker, job

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, Adapter, drive, payload, run_async
from benchmarks.peers.adapters.record import note

log = logging.getLogger("chancy")
log.setLevel(logging.ERROR)


@job(queue=QUEUE)
async def noop(*, id: int, pad: str) -> None:
    note(id)


class OnChancy(Adapter):
    def prepare(self) -> None:
        asyncio.run(_prepare())

    async def open(self) -> None:
        self._chancy = _chancy()
        await self._chancy.pool.open()

    async def submit(self, number: int) -> None:
        await self._chancy.push(noop.job.with_kwargs(**payload(number)))

    async def submit_many(self, numbers: Sequence[int]) -> None:
        async for _ in self._chancy.push_many([noop.job.with_kwargs(**payload(number)) for number in numbers]):
            pass

    def work(self) -> None:
        run_async(_work())


def _chancy() -> Chancy:
    return Chancy(URL, min_connection_pool_size=4, max_connection_pool_size=SETTINGS["pool"], log=log)


async def _prepare() -> None:
    async with _chancy() as chancy:
        await chancy.migrate()
        queue = Queue(QUEUE, concurrency=SETTINGS["concurrency"], executor=Chancy.Executor.Async, eager_polling=True)
        await chancy.declare(queue, upsert=True)


async def _work() -> None:
    async with _chancy() as chancy, Worker(chancy) as worker:
        await worker.wait_for_shutdown()


if __name__ == "__main__":
    # Jobs are found by the path of their function, which must not be __main__.
    from benchmarks.peers.adapters import chancy as importable

    drive(importable.OnChancy())
