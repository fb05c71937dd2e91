"""Oban for Python: an asynchronous worker, one queue with a limit, a pool."""

import asyncio
from collections.abc import Sequence
from typing import Any

from oban import Oban
from oban import worker as oban_worker
from oban.schema import install

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, Adapter, drive, payload, run_async
from benchmarks.peers.adapters.record import note


@oban_worker(queue=QUEUE)
class Noop:
    async def process(self, job: Any) -> None:
        note(job.args["id"])


class OnOban(Adapter):
    def prepare(self) -> None:
        asyncio.run(_install())

    async def open(self) -> None:
        self._oban = Oban(pool=await _pool())
        await self._oban.start()

    async def submit(self, number: int) -> None:
        await self._oban.enqueue(_job(number))

    async def submit_many(self, numbers: Sequence[int]) -> None:
        await self._oban.enqueue_many(*[_job(number) for number in numbers])

    def work(self) -> None:
        run_async(_work())


async def _pool() -> Any:
    return await Oban.create_pool(dsn=URL, min_size=4, max_size=SETTINGS["pool"])


async def _install() -> None:
    pool = await _pool()
    await install(pool)
    await pool.close()


async def _work() -> None:
    async with Oban(pool=await _pool(), queues={QUEUE: {"limit": SETTINGS["limit"]}}):
        await asyncio.Event().wait()


def _job(number: int) -> Any:
    return Noop.new(payload(number))  # type: ignore[attr-defined]  # the decorator adds it


if __name__ == "__main__":
    # Workers are found by the path of their class, which must not be __main__.
    from benchmarks.peers.adapters import oban as importable

    drive(importable.OnOban())
