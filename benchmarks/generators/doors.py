"""The doors of a submission: single POSTs, REST batches, NDJSON imports, gRPC batches, and the SDK's own client.

Requests are made before the clock starts, as far as a door allows it: what is measured is the server.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub
from quorra_worker_sdk import AsyncClient, NewJob

from benchmarks.generators import http
from benchmarks.generators.stopwatch import Stopwatch
from benchmarks.load import QUEUE, Target, payload

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def single(*, count: int, connections: int, size_bytes: int = 200, **target: Any) -> dict[str, Any]:
    """Send one job a request over many connections."""
    to = Target(**target)
    request = http.post(to.http_url, to.api_key, "/v1/jobs", json.dumps(_job(size_bytes)).encode())
    opened = [await http.Connection.open(to.http_url) for _ in range(connections)]

    async def one(connection: http.Connection, turns: Iterator[int]) -> None:
        for _ in turns:
            http.created(await connection.send(request))

    return await _together(opened, count, count, one)


async def rest_batches(
    *, count: int, batch: int, connections: int, size_bytes: int = 200, **target: Any
) -> dict[str, Any]:
    """Send JSON batches."""
    to = Target(**target)
    body = json.dumps({"jobs": [_job(size_bytes)] * batch}).encode()
    request = http.post(to.http_url, to.api_key, "/v1/jobs/batch", body)
    opened = [await http.Connection.open(to.http_url) for _ in range(connections)]

    async def one(connection: http.Connection, turns: Iterator[int]) -> None:
        for _ in turns:
            http.created(await connection.send(request))

    return await _together(opened, count, count // batch, one)


async def ndjson(*, count: int, connections: int, size_bytes: int = 200, **target: Any) -> dict[str, Any]:
    """Import streams of lines, one on each connection; answers are read while lines are still being sent."""
    to = Target(**target)
    lines = count // connections
    body = (json.dumps(_job(size_bytes)).encode() + b"\n") * lines
    request = http.post(to.http_url, to.api_key, "/v1/jobs/batch", body, "application/x-ndjson")

    async def one(_: None, turns: Iterator[int]) -> None:
        for _turn in turns:
            await _import(to, request, lines)

    return await _together([None] * connections, lines * connections, connections, one)


async def _import(to: Target, request: bytes, lines: int) -> None:
    parts = urlsplit(to.http_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    sending = asyncio.create_task(writer.drain())
    answered = 0
    while answered < lines:
        received = await reader.read(1 << 20)
        if not received:
            raise RuntimeError(f"the import ended after {answered} of {lines} answers")
        answered += received.count(b'"pending"')
    await sending
    writer.close()


async def grpc_batches(
    *, count: int, batch: int, connections: int, size_bytes: int = 200, **target: Any
) -> dict[str, Any]:
    """Send `SubmitJobs` requests."""
    to = Target(**target)
    job = _job(size_bytes)
    spec = pb.JobSpec(type=job["type"], queue=job["queue"], payload=json.dumps(job["payload"]).encode())
    request = pb.SubmitJobsRequest(jobs=[spec] * batch)
    async with grpc.aio.insecure_channel(to.grpc_address, options=UNLIMITED) as channel:
        stub = JobServiceStub(channel)

        async def one(_: None, turns: Iterator[int]) -> None:
            for _turn in turns:
                await stub.SubmitJobs(request, metadata=(("x-api-key", to.api_key),))

        return await _together([None] * connections, count, count // batch, one)


async def sdk_batches(*, count: int, batch: int, connections: int, **target: Any) -> dict[str, Any]:
    """Call `submit_many` of the SDK, which makes a message of each job."""
    to = Target(**target)
    jobs = [NewJob("noop", payload(number), queue=QUEUE) for number in range(batch)]
    async with AsyncClient(to.grpc_address, api_key=to.api_key) as client:

        async def one(_: None, turns: Iterator[int]) -> None:
            for _turn in turns:
                await client.submit_many(jobs)

        return await _together([None] * connections, count, count // batch, one)


async def _together(
    callers: "list[Any]", jobs: int, turns: int, one: Callable[[Any, Iterator[int]], Awaitable[None]]
) -> dict[str, Any]:
    """Let callers share a number of turns, and time it."""
    shared = iter(range(turns))
    stopwatch = Stopwatch()
    await asyncio.gather(*(one(caller, shared) for caller in callers))
    return stopwatch.reply(jobs)


def _job(size_bytes: int) -> dict[str, Any]:
    return {"type": "noop", "queue": QUEUE, "payload": payload(0, size_bytes)}
