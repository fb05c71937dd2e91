"""Quorra: jobs go in over REST or gRPC, and `quorra-worker` runs the worker of this module."""

import asyncio
import os
from collections.abc import Sequence

import msgspec
from quorra_worker_sdk import AsyncClient, NewJob, Worker

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, Adapter, drive, payload
from benchmarks.peers.adapters.record import note

# As many as a server takes from one address, unless it is told otherwise: more calls at a time wait for one of these.
CONNECTIONS_MAX = 50

worker = Worker(queues=[QUEUE], slots=SETTINGS.get("slots"))


@worker.job("noop", queue=QUEUE)
async def noop(id: int, pad: str) -> None:
    """Only say that this job ran."""
    note(id)


class OverRest(Adapter):
    """Keeps connections alive and writes HTTP by hand, so that it costs as little as the drivers of the others."""

    def __init__(self) -> None:
        self._host, _, port = URL.removeprefix("http://").partition(":")
        self._port = int(port)
        self._key = os.environ["QUORRA_API_KEY"]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)

    async def open(self) -> None:
        """Connections are opened as they are needed."""

    async def submit(self, number: int) -> None:
        await self._post("/v1/jobs", _job(number))

    async def submit_many(self, numbers: Sequence[int]) -> None:
        await self._post("/v1/jobs/batch", {"jobs": [_job(number) for number in numbers]})

    async def _post(self, path: str, content: object) -> None:
        body = msgspec.json.encode(content)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nX-API-Key: {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with self._room:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
            writer.write(head.encode() + body)
            reply = await reader.readuntil(b"\r\n\r\n")
            assert reply.startswith(b"HTTP/1.1 201"), reply
            await reader.readexactly(int(reply.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
            self._idle.append((reader, writer))

    def work(self) -> None:
        raise NotImplementedError("quorra-worker runs the worker")


class OverGrpc(Adapter):
    """The client of the SDK."""

    async def open(self) -> None:
        self._client = AsyncClient(URL)

    async def submit(self, number: int) -> None:
        await self._client.submit(NewJob("noop", payload(number), queue=QUEUE))

    async def submit_many(self, numbers: Sequence[int]) -> None:
        await self._client.submit_many([NewJob("noop", payload(number), queue=QUEUE) for number in numbers])

    def work(self) -> None:
        raise NotImplementedError("quorra-worker runs the worker")


def _job(number: int) -> dict[str, object]:
    return {"type": "noop", "queue": QUEUE, "payload": payload(number)}


if __name__ == "__main__":
    drive(OverRest() if URL.startswith("http://") else OverGrpc())
