"""Awa: a Rust core behind Python; its queue storage, and COPY for many jobs."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import awa

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, Adapter, drive, payload, run_async
from benchmarks.peers.adapters.record import note


@dataclass
class Noop:
    id: int
    pad: str


class OnAwa(Adapter):
    def prepare(self) -> None:
        asyncio.run(_prepare())

    async def open(self) -> None:
        self._client = awa.AsyncClient(URL, max_connections=SETTINGS["producer_pool"])

    async def submit(self, number: int) -> None:
        await self._client.insert(Noop(**payload(number)), queue=QUEUE)

    async def submit_many(self, numbers: Sequence[int]) -> None:
        await self._client.enqueue_many_copy([Noop(**payload(number)) for number in numbers], queue=QUEUE)

    def work(self) -> None:
        run_async(_work())


async def _prepare() -> None:
    """Migrate, and start a worker once: a fresh installation moves to the queue storage then."""
    client = await _started()
    while '"active_engine": "queue_storage"' not in await client.storage_status():
        await asyncio.sleep(0.1)
    await client.shutdown()
    await client.close()


async def _work() -> None:
    await _started()
    await asyncio.Event().wait()


async def _started() -> Any:
    client = awa.AsyncClient(URL, max_connections=SETTINGS["pool"])
    await client.migrate()

    @client.task(Noop, queue=QUEUE)
    async def noop(job: Any) -> None:
        note(job.args.id)

    await client.start([(QUEUE, SETTINGS["concurrency"])])
    return client


if __name__ == "__main__":
    drive(OnAwa())
