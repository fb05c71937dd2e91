"""Submit: durable single POSTs from many connections, REST batches, NDJSON and gRPC batches."""

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
from quorra_worker_sdk import Client, NewJob

from benchmarks.stage import API_KEY, Figure, Stage, payload

CONNECTIONS = 64
BATCH = 1_000
# This client reads no answer before it has sent everything, so each import has to fit into the buffers between both.
IMPORT_LINES = 2_000
QUEUE = "bench"


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure each door."""
    single, bulk = (500, 2_000) if short else (20_000, 100_000)
    stage.start_server()
    yield Figure(f"single POST, {CONNECTIONS} connections", asyncio.run(_single(stage, single)), "requests/s")
    yield Figure("REST batches of 1,000", _rest_batches(stage, bulk), "jobs/s")
    yield Figure("NDJSON import", _ndjson(stage, bulk), "jobs/s")
    yield Figure("gRPC batches of 1,000", _grpc_batches(stage, bulk), "jobs/s")


async def _single(stage: Stage, count: int) -> float:
    """Write HTTP by hand: a full client would measure itself."""
    body = json.dumps({"type": "noop", "queue": QUEUE, "payload": payload(0)}).encode()
    host, _, port = stage.http_url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {API_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    left = iter(range(count))

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in left:
            writer.write(head + body)
            reply = await reader.readuntil(b"\r\n\r\n")
            assert reply.startswith(b"HTTP/1.1 201"), reply
            length = int(reply.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return count / (time.perf_counter() - began)


def _rest_batches(stage: Stage, count: int) -> float:
    job = {"type": "noop", "queue": QUEUE, "payload": payload(0)}
    body = json.dumps({"jobs": [job] * BATCH}).encode()
    headers = {**stage.headers, "Content-Type": "application/json"}
    with httpx.Client(base_url=stage.http_url, headers=headers, timeout=60) as client:
        began = time.perf_counter()
        for _ in range(count // BATCH):
            assert client.post("/v1/jobs/batch", content=body).status_code == 201
        return count / (time.perf_counter() - began)


def _ndjson(stage: Stage, count: int) -> float:
    line = json.dumps({"type": "noop", "queue": QUEUE, "payload": payload(0)}).encode() + b"\n"
    headers = {**stage.headers, "Content-Type": "application/x-ndjson"}
    with httpx.Client(base_url=stage.http_url, headers=headers, timeout=120) as client:
        began = time.perf_counter()
        for _ in range(count // IMPORT_LINES):
            reply = client.post("/v1/jobs/batch", content=line * IMPORT_LINES)
            assert reply.text.count('"id"') == IMPORT_LINES
        return count / (time.perf_counter() - began)


def _grpc_batches(stage: Stage, count: int) -> float:
    jobs = [NewJob("noop", payload(0), queue=QUEUE) for _ in range(BATCH)]
    with Client(stage.grpc_address, api_key=API_KEY) as client:
        began = time.perf_counter()
        for _ in range(count // BATCH):
            client.submit_many(jobs)
        return count / (time.perf_counter() - began)
