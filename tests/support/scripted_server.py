"""A server that says only what its test tells it to say, for moments that a real one cannot be held in."""

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server

SECONDS_MAX = 10.0
_numbers = itertools.count(1)


class ScriptedStream:
    """The server's side of one stream. It sends receipts by itself, and nothing else.

    Attributes:
        heard: Everything that the worker has said, as far as `hear` has come.
        refuses: Lease ids of successes that are not acceptable.
        is_slow: Send no receipts; the test does.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._unheard: asyncio.Queue[pb.WorkerMessage] = asyncio.Queue()
        self._broken = asyncio.Event()
        self._writing = asyncio.Lock()
        self.heard: list[pb.WorkerMessage] = []
        self.refuses: set[str] = set()
        self.is_slow = False

    async def hear(self, kind: str) -> Any:
        """Return the next message of a kind, such as `credit`."""
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                message = await self._unheard.get()
                self.heard.append(message)
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)

    async def hear_outcome(self) -> Any:
        """Return the next outcome of a run; messages bring one at a time here."""
        while True:
            reports = await self.hear("reports")
            kinds = (reports.succeeded, reports.failed, reports.released, reports.snoozed, reports.cancelled)
            for outcome in (entry for entries in kinds for entry in entries):
                return outcome

    async def welcome(self, *, sees_idle_workers: bool = False) -> None:
        terms = pb.Welcome(lease_ttl_seconds=60, heartbeat_interval_ms=200, ping_interval_ms=60_000)
        terms.sees_idle_workers = sees_idle_workers
        await self.say(welcome=terms)

    async def send_jobs(self, *jobs: pb.Job) -> None:
        await self.say(jobs=pb.Jobs(jobs=jobs))

    async def say(self, **message: Any) -> None:
        # gRPC takes one message at a time.
        async with self._writing:
            await self._context.write(pb.ServerMessage(**message))

    def break_off(self) -> None:
        """End the stream as a lost connection does."""
        self._broken.set()

    async def hold(self) -> None:
        """Take what is said until one side ends the stream."""
        reading, breaking = asyncio.create_task(self._read()), asyncio.create_task(self._broken.wait())
        try:
            await asyncio.wait([reading, breaking], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, breaking):
                task.cancel()
            await asyncio.gather(reading, breaking, return_exceptions=True)
        if self._broken.is_set():
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, "broken off by the test")

    async def _read(self) -> None:
        while isinstance(message := await self._context.read(), pb.WorkerMessage):
            self._unheard.put_nowait(message)
            if message.HasField("reports") and not self.is_slow:
                refused = [
                    pb.Refused(lease_id=entry.lease_id, reason=pb.REFUSAL_REASON_INVALID, outcome="not acceptable")
                    for entry in message.reports.succeeded
                    if entry.lease_id in self.refuses
                ]
                await self.say(receipts=pb.Receipts(sequence=message.reports.sequence, refused=refused))


class ScriptedServer(WorkerServiceServicer):
    """Listens on a port of its own.

    Attributes:
        renewed: The lease ids of each heartbeat.
        beaten_by: How many heartbeats each worker sent, by its id.
        may_answer_heartbeats: Cleared, they are heard and not answered.
    """

    def __init__(self) -> None:
        self._opened: asyncio.Queue[ScriptedStream] = asyncio.Queue()
        self.renewed: asyncio.Queue[list[str]] = asyncio.Queue()
        self.beaten_by: Counter[str] = Counter()
        self.may_answer_heartbeats = asyncio.Event()
        self.may_answer_heartbeats.set()
        self.address = ""

    async def stream(self) -> ScriptedStream:
        """Return the next stream that a worker opened; its `Hello` is not answered yet."""
        return await asyncio.wait_for(self._opened.get(), SECONDS_MAX)

    async def Work(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        stream = ScriptedStream(context)
        self._opened.put_nowait(stream)
        await stream.hold()

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:  # noqa: N802
        self.renewed.put_nowait(list(request.lease_ids))
        self.beaten_by[request.worker_id] += 1
        await self.may_answer_heartbeats.wait()
        return pb.HeartbeatReply(lease_expires_in_ms=60_000)


def a_job(type: str = "work", queue: str = "default") -> pb.Job:
    """Return a job with a lease of its own."""
    return pb.Job(
        id=str(uuid.uuid4()),
        lease_id=f"1.{next(_numbers)}",
        type=type,
        queue=queue,
        payload=b"{}",
        lease_expires_in_ms=60_000,
    )


class Deaf:
    """A listener of a session that does nothing."""

    def connected(self, welcome: pb.Welcome) -> None: ...

    def jobs_arrived(self, jobs: Sequence[pb.Job]) -> None: ...

    def leases_ended(self, ended: Iterable[pb.LeaseEnded]) -> None: ...

    def reports_refused(self, refused: Sequence[pb.Refused]) -> None: ...


@asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    # The other methods answer that they are not implemented.
    server, scripted = grpc.aio.server(), ScriptedServer()  # type: ignore[abstract]
    add_WorkerServiceServicer_to_server(scripted, server)
    scripted.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(None)
