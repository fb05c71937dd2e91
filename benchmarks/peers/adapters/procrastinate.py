"""Procrastinate: asynchronous tasks, a pool, LISTEN/NOTIFY; finished jobs are kept, as by default."""

import asyncio
import logging
from collections.abc import Sequence

import procrastinate

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, Adapter, drive, payload, run_async
from benchmarks.peers.adapters.record import note

logging.disable(logging.WARNING)
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL, max_size=SETTINGS.get("pool", 1)))


@app.task(name="noop", queue=QUEUE)
async def noop(id: int, pad: str) -> None:
    note(id)


class OnProcrastinate(Adapter):
    def prepare(self) -> None:
        asyncio.run(_apply_schema())

    async def open(self) -> None:
        await app.open_async()

    async def submit(self, number: int) -> None:
        await noop.defer_async(**payload(number))

    async def submit_many(self, numbers: Sequence[int]) -> None:
        await noop.batch_defer_async(*[payload(number) for number in numbers])

    def work(self) -> None:
        run_async(_work())


async def _apply_schema() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def _work() -> None:
    async with app.open_async():
        await app.run_worker_async(queues=[QUEUE], concurrency=SETTINGS["concurrency"], install_signal_handlers=False)


if __name__ == "__main__":
    drive(OnProcrastinate())
