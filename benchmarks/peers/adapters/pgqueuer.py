"""PgQueuer: one connection and big batches for the worker, a pool for producers."""

import asyncio
import json
from collections.abc import Sequence

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.adapters.driver import SETTINGS, URL, Adapter, drive, payload, run_async
from benchmarks.peers.adapters.record import note


class OnPgQueuer(Adapter):
    def prepare(self) -> None:
        asyncio.run(_install())

    async def open(self) -> None:
        self._queries = Queries(AsyncpgPoolDriver(await asyncpg.create_pool(URL, max_size=SETTINGS["producer_pool"])))

    async def submit(self, number: int) -> None:
        await self._queries.enqueue("noop", _bytes(number))

    async def submit_many(self, numbers: Sequence[int]) -> None:
        await self._queries.enqueue(["noop"] * len(numbers), [_bytes(n) for n in numbers], [0] * len(numbers))

    def work(self) -> None:
        run_async(_work())


async def _install() -> None:
    connection = await asyncpg.connect(URL)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def _work() -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        assert job.payload is not None
        note(json.loads(job.payload)["id"])

    await queuer.run(batch_size=SETTINGS["batch_size"])


def _bytes(number: int) -> bytes:
    return json.dumps(payload(number)).encode()


if __name__ == "__main__":
    drive(OnPgQueuer())
