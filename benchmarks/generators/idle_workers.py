"""Many workers that wait: each a `Work` stream on a connection of its own, which answers pings as the SDK does."""

import asyncio
import json
import secrets
import sys
import time
from typing import Any

import grpc
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from benchmarks.generators import http
from benchmarks.generators.stopwatch import Stopwatch
from benchmarks.load import QUEUE, Target, payload

SLOTS = 10
LEASE_SECONDS = 30
# So many streams are opened at a time.
OPENING_MAX = 50
# Without it, channels of one process to one address share a connection.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


async def run(*, workers: int, probes: int, **target: Any) -> dict[str, Any]:
    """Open the streams, say so, and wait for a line; then send jobs one by one and time how soon a stream has each."""
    to = Target(**target)
    fleet = _Fleet(to)
    opening = asyncio.Semaphore(OPENING_MAX)
    streams = [asyncio.create_task(fleet.work(number, opening)) for number in range(workers)]
    await fleet.wait_until_open(workers, streams)
    stopwatch = Stopwatch()
    print(json.dumps({"open": workers, "cpu_seconds": 0.0}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    reply = stopwatch.reply(probes)
    waits_ms = [await fleet.probe(number) for number in range(probes)]
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return {**reply, "waits_ms": waits_ms}


class _Fleet:
    """The streams, and the job that they wait for."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._metadata = (("x-api-key", target.api_key),)
        self._open = 0
        self._arrived: asyncio.Future[float] | None = None

    async def wait_until_open(self, workers: int, streams: "list[asyncio.Task[None]]") -> None:
        while self._open < workers:
            failed = [stream for stream in streams if stream.done()]
            if failed:
                failed[0].result()
            await asyncio.sleep(0.05)

    async def probe(self, number: int) -> float:
        """Submit a job and return after how many milliseconds a stream had it."""
        self._arrived = asyncio.get_running_loop().create_future()
        connection = await http.Connection.open(self._target.http_url)
        job = json.dumps({"type": "noop", "queue": QUEUE, "payload": payload(number)})
        sent = time.monotonic()
        request = http.post(self._target.http_url, self._target.api_key, "/v1/jobs", job.encode())
        http.created(await connection.send(request))
        arrived = await self._arrived
        connection.close()
        await asyncio.sleep(0.02)
        return (arrived - sent) * 1000

    async def work(self, number: int, opening: asyncio.Semaphore) -> None:
        """Hold one conversation."""
        async with grpc.aio.insecure_channel(self._target.grpc_address, options=OWN_CONNECTION) as channel:
            stub = WorkerServiceStub(channel)
            call: Any = stub.Work(metadata=self._metadata)
            hello = _hello(number)
            async with opening:
                await call.write(pb.WorkerMessage(hello=hello))
                welcome = (await call.read()).welcome
                await call.write(pb.WorkerMessage(credit=pb.Credit(granted_total=SLOTS)))
            self._open += 1
            outbox: asyncio.Queue[pb.WorkerMessage] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(call, outbox))
                if not welcome.sees_idle_workers:
                    group.create_task(self._beat(stub, hello, welcome.heartbeat_interval_ms / 1000))
                await self._read(call, outbox)

    async def _read(self, call: Any, outbox: "asyncio.Queue[pb.WorkerMessage]") -> None:
        sequence = done = 0
        while isinstance(message := await call.read(), pb.ServerMessage):
            if message.HasField("ping"):
                outbox.put_nowait(pb.WorkerMessage(ping=message.ping))
            if message.HasField("jobs"):
                if self._arrived is not None and not self._arrived.done():
                    self._arrived.set_result(time.monotonic())
                sequence += 1
                done += len(message.jobs.jobs)
                succeeded = [pb.Succeeded(lease_id=job.lease_id) for job in message.jobs.jobs]
                outbox.put_nowait(pb.WorkerMessage(reports=pb.Reports(sequence=sequence, succeeded=succeeded)))
                outbox.put_nowait(pb.WorkerMessage(credit=pb.Credit(granted_total=SLOTS + done)))
        raise RuntimeError(f"the server ended a stream: {await call.code()} {await call.details()}")

    async def _write(self, call: Any, outbox: "asyncio.Queue[pb.WorkerMessage]") -> None:
        while True:
            await call.write(await outbox.get())

    async def _beat(self, stub: Any, hello: pb.Hello, seconds: float) -> None:
        request = pb.HeartbeatRequest(worker_id=hello.worker_id, boot_id=hello.boot_id, lease_ttl_seconds=LEASE_SECONDS)
        while True:
            await asyncio.sleep(seconds)
            await stub.Heartbeat(request, metadata=self._metadata)


def _hello(number: int) -> pb.Hello:
    return pb.Hello(
        worker_id=f"idle-{number}",
        boot_id=secrets.token_hex(8),
        queues=[pb.QueueSubscription(name=QUEUE)],
        types=["noop"],
        slots=SLOTS,
        lease_ttl_seconds=LEASE_SECONDS,
        sdk_name="benchmark",
        sdk_version="0",
        host="localhost",
        pid=number + 1,
    )
