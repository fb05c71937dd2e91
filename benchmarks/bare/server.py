"""The bare queue's server: it stands in Quorra's place for the benchmarks' own workers and generators.

Each POST is a row and one message on a stream; POSTs that arrive while a statement runs share the next one. Jobs
that wait are taken out and streamed as far as a worker grants credit. Streams are pinged, a few at a time, and answer.

    python -m benchmarks.bare.server HTTP_ADDRESS GRPC_ADDRESS DATABASE_URL
"""

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any

import grpc
import uvloop
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_server.transports.grpc.pings import GROUPS

from benchmarks.bare.rows import BareRows
from benchmarks.generators.http import HEAD_END, content_length
from benchmarks.load import QUEUE

# As Quorra pings.
PING_SECONDS = 5.0
# As large as Quorra's.
TAKEN_MAX = 1_000
JOBS_PER_MESSAGE = 500


class _Stream:
    """A worker's stream: jobs, receipts and pings are written one at a time, because two writers break it."""

    def __init__(self, context: Any) -> None:
        self.granted = self.sent = 0
        self.has_credit = asyncio.Event()
        self._context = context
        self._writing = asyncio.Lock()

    def grant(self, granted_total: int) -> None:
        self.granted = granted_total
        if self.granted > self.sent:
            self.has_credit.set()

    async def send_jobs(self, jobs: Iterable[tuple[int, str]], kind: str = "noop") -> None:
        message = pb.ServerMessage()
        add = message.jobs.jobs.add
        shared = pb.Job(type=kind, queue=QUEUE, lease_expires_in_ms=30_000)
        for number, payload in jobs:
            job = add()
            job.CopyFrom(shared)
            job.id = job.lease_id = str(number)
            job.payload = payload.encode()
        await self.write(message)

    async def write(self, message: pb.ServerMessage) -> None:
        async with self._writing:
            await self._context.write(message)


class BareServer:
    """Takes rows in, hands messages out, and pings."""

    def __init__(self, posting: BareRows, taking: BareRows, ending: BareRows) -> None:
        """Take a connection for each kind of statement, so that they overlap."""
        self._posting, self._taking, self._ending = posting, taking, ending
        self._post_lock, self._take_lock, self._end_lock = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._payloads: list[str] = []
        self._next_post: asyncio.Task[list[int]] | None = None
        self._streams: list[_Stream] = []
        self._ended = 0

    async def submit(self, body: bytes) -> bytes:
        """Put a job in; once it is durable, send it to a worker, if there is one."""
        place = len(self._payloads)
        self._payloads.append(body.decode())
        self._next_post = self._next_post or asyncio.create_task(self._post())
        number = (await self._next_post)[place]
        if self._streams:
            job = json.loads(body)
            await self._streams[0].send_jobs([(number, json.dumps(job["payload"]))], job["type"])
        return _answer(201, {})

    async def _post(self) -> list[int]:
        """Put in what waits when the statement before has ended."""
        async with self._post_lock:
            payloads, self._payloads, self._next_post = self._payloads, [], None
            return await self._posting.post(payloads)

    def workers(self) -> bytes:
        """Answer `GET /v1/workers`, and with it whether the server is ready."""
        return _answer(200, {"workers": [{} for _ in self._streams]})

    def queues(self) -> bytes:
        """Answer `GET /v1/queues` with the jobs that have ended."""
        return _answer(200, {"queues": [{"queue": QUEUE, "status": "succeeded", "count": self._ended}]})

    async def work(self, _: Any, context: Any) -> None:
        """Hold a conversation with a worker."""
        await context.read()
        interval_ms = int(PING_SECONDS * 1000)
        welcome = pb.Welcome(ping_interval_ms=interval_ms, heartbeat_interval_ms=10_000, sees_idle_workers=True)
        await context.write(pb.ServerMessage(welcome=welcome))
        stream = _Stream(context)
        self._streams.append(stream)
        feeding = asyncio.create_task(self._feed(stream))
        try:
            while isinstance(message := await context.read(), pb.WorkerMessage):
                if message.HasField("credit"):
                    stream.grant(message.credit.granted_total)
                elif message.HasField("reports"):
                    await self._end(message.reports)
                    receipts = pb.Receipts(sequence=message.reports.sequence)
                    await stream.write(pb.ServerMessage(receipts=receipts))
        finally:
            feeding.cancel()
            self._streams.remove(stream)

    async def _feed(self, stream: _Stream) -> None:
        """Take jobs out for a stream, as far as its credit goes; with none left, look again when it grants more."""
        while True:
            await stream.has_credit.wait()
            async with self._take_lock:
                jobs = await self._taking.take(min(stream.granted - stream.sent, TAKEN_MAX))
            stream.sent += len(jobs)
            if not jobs or stream.sent >= stream.granted:
                stream.has_credit.clear()
            for first in range(0, len(jobs), JOBS_PER_MESSAGE):
                await stream.send_jobs(jobs[first : first + JOBS_PER_MESSAGE])

    async def _end(self, reports: pb.Reports) -> None:
        async with self._end_lock:
            await self._ending.end([int(entry.lease_id) for entry in reports.succeeded])
        self._ended += len(reports.succeeded)

    async def heartbeat(self, _: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:
        """Say that all is well."""
        return pb.HeartbeatReply()

    async def ping(self) -> None:
        """Ping every stream once an interval."""
        for group in itertools.cycle(range(GROUPS)):
            await asyncio.sleep(PING_SECONDS / GROUPS)
            for stream in self._streams[group::GROUPS]:
                with contextlib.suppress(grpc.aio.BaseError):  # it has ended meanwhile
                    await stream.write(pb.ServerMessage(ping=pb.Ping(nonce=1)))


def _answer(status: int, body: object) -> bytes:
    encoded = json.dumps(body).encode()
    return b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%b" % (status, len(encoded), encoded)


class _Door(asyncio.Protocol):
    """HTTP, as far as the load generators and a health check speak it: one request at a time."""

    def __init__(self, server: BareServer) -> None:
        self._server = server
        self._received = bytearray()
        self._transport: Any = None
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(HEAD_END)
        if not found:
            return
        if head.startswith(b"GET"):
            answer = self._server.queues() if head.startswith(b"GET /v1/queues") else self._server.workers()
            self._received.clear()
            self._transport.write(answer)
        elif len(body) >= content_length(head):
            self._received.clear()
            self._answering = asyncio.create_task(self._answer(bytes(body)))

    async def _answer(self, body: bytes) -> None:
        try:
            self._transport.write(await self._server.submit(body))
        except BaseException:
            self._transport.close()  # whoever waits for an answer hears of it
            raise


def _handlers(server: BareServer) -> grpc.GenericRpcHandler:
    calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Work": grpc.stream_stream_rpc_method_handler(
            server.work, pb.WorkerMessage.FromString, pb.ServerMessage.SerializeToString
        ),
        "Heartbeat": grpc.unary_unary_rpc_method_handler(
            server.heartbeat, pb.HeartbeatRequest.FromString, pb.HeartbeatReply.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler(pb.DESCRIPTOR.services_by_name["WorkerService"].full_name, calls)


async def _serve(http_address: str, grpc_address: str, database_url: str) -> None:
    rows = [await BareRows.open(database_url) for _ in range(3)]
    server = BareServer(*rows)
    streams = grpc.aio.server()
    streams.add_generic_rpc_handlers((_handlers(server),))
    streams.add_insecure_port(grpc_address)
    await streams.start()
    host, port = http_address.split(":")
    door = await asyncio.get_running_loop().create_server(lambda: _Door(server), host, int(port))
    async with door:
        await server.ping()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
