"""A server that does only what no server could leave out: the floor under Quorra's figures on an idle system.

It stands in Quorra's place for the benchmarks' own workers and generators, with the same libraries below. Each POST
is one row, inserted and flushed, and one message on a stream; streams are pinged, a few at a time, and answer. There is
no schema, no validation, no lease and no outcome.

    python -m benchmarks.bare_server HTTP_ADDRESS GRPC_ADDRESS DATABASE_URL
"""

import asyncio
import contextlib
import itertools
import json
import sys
from typing import Any

import asyncpg
import grpc
import uvloop
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_server.transports.grpc.pings import GROUPS

from benchmarks.generators.http import HEAD_END, content_length

# As Quorra pings.
PING_SECONDS = 5.0


class _Stream:
    """A worker's stream: jobs, receipts and pings are written one at a time, because two writers break it."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._writing = asyncio.Lock()

    async def write(self, message: pb.ServerMessage) -> None:
        async with self._writing:
            await self._context.write(message)


class BareServer:
    """Takes rows in, hands messages out, and pings."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        """Take the only connection to PostgreSQL."""
        self._connection = connection
        self._streams: list[_Stream] = []
        self._numbers = itertools.count(1)

    async def submit(self, body: bytes) -> bytes:
        """Insert a row; once it is durable, send it to a worker."""
        await self._connection.execute("INSERT INTO bare (payload) VALUES ($1)", body.decode())
        job = json.loads(body)
        message = pb.ServerMessage()
        message.jobs.jobs.add(
            id=str(next(self._numbers)),
            lease_id="bare",
            type=job["type"],
            queue=job["queue"],
            payload=json.dumps(job["payload"]).encode(),
            lease_expires_in_ms=30_000,
        )
        await self._streams[0].write(message)
        return b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"

    def workers(self) -> bytes:
        """Answer `GET /v1/workers`, and with it whether the server is ready."""
        body = json.dumps({"workers": [{} for _ in self._streams]}).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def work(self, _: Any, context: Any) -> None:
        """Welcome a worker and acknowledge what it reports."""
        await context.read()
        interval_ms = int(PING_SECONDS * 1000)
        welcome = pb.Welcome(ping_interval_ms=interval_ms, heartbeat_interval_ms=10_000, sees_idle_workers=True)
        await context.write(pb.ServerMessage(welcome=welcome))
        stream = _Stream(context)
        self._streams.append(stream)
        try:
            while isinstance(message := await context.read(), pb.WorkerMessage):
                if message.HasField("reports"):
                    receipts = pb.Receipts(sequence=message.reports.sequence)
                    await stream.write(pb.ServerMessage(receipts=receipts))
        finally:
            self._streams.remove(stream)

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
            self._received.clear()
            self._transport.write(self._server.workers())
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
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE bare (id bigserial PRIMARY KEY, payload json)")
    server = BareServer(connection)
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
