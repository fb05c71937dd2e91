"""The session: one `Work` conversation after another with the server, and what must survive the break between them.

Reports are kept until their receipt and sent again on the next stream; repeating them is harmless. One task reads and
one writes.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import grpc
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from quorra_worker_sdk.endings import Ending, Success
from quorra_worker_sdk.errors import Forbidden, InvalidRequest, Unauthenticated, from_grpc

log = logging.getLogger("quorra.worker")

RECONNECT_SECONDS = (0.1, 5.0)
SILENT_PINGS_MAX = 3
# How many intervals pass without a word of ours before it is time for a ping.
QUIET_PINGS_MAX = 1.5
PING_SECONDS_DEFAULT = 5.0
REPORTS_PER_MESSAGE_MAX = 1_000
# While so many messages wait for their receipts, what is reported waits for one of them, so that messages grow with the
# load (Nagle's algorithm, RFC 896); but no longer than this.
MESSAGES_UNRECEIPTED_MAX = 2
HOLD_SECONDS_MAX = 0.02
# Of outcomes, and of what handlers said, in one message: whatever a server's bounds are, it takes 4 MiB.
MESSAGE_BYTES_MAX = 1024 * 1024
# Trying again does not mend these.
FATAL = (Unauthenticated, Forbidden, InvalidRequest)

Call = grpc.aio.StreamStreamCall[pb.WorkerMessage, pb.ServerMessage]


class Listener(Protocol):
    """Whom the session tells what the server said; called on the event loop."""

    def connected(self, welcome: pb.Welcome) -> None:
        """A stream is open: grant credit for it."""

    def jobs_arrived(self, jobs: Sequence[pb.Job]) -> None:
        """Jobs were sent."""

    def leases_ended(self, ended: Iterable[pb.LeaseEnded]) -> None:
        """Runs should stop."""

    def reports_refused(self, refused: Sequence[pb.Refused]) -> None:
        """Reports did not decide their job."""


class Session:
    """Talks to the server, and reopens the stream whenever it breaks or falls silent."""

    def __init__(
        self,
        channel: Callable[[], grpc.aio.Channel],
        metadata: Sequence[tuple[str, str]],
        hello: Callable[[], pb.Hello],
        listener: Listener,
    ) -> None:
        """Take how to connect, how to introduce the worker, and whom to tell."""
        self._open_channel = channel
        self._metadata = tuple(metadata)
        self._hello = hello
        self._listener = listener
        self._sequence = 0
        self._unreceipted: dict[int, pb.WorkerMessage] = {}
        self._endings: list[Ending] = []
        self._started: list[pb.Started] = []
        self._said = pb.Reports()
        self._said_bytes = 0
        self._outbox: asyncio.Queue[pb.WorkerMessage] | None = None
        self._is_welcomed = False
        self._flush_is_due = False
        self._hold: asyncio.TimerHandle | None = None
        self._heard_at = self._said_at = 0.0
        self._ping_seconds = PING_SECONDS_DEFAULT
        self._all_receipted = asyncio.Event()
        self._all_receipted.set()
        self._is_closing = False
        self._call: Call | None = None

    async def run(self) -> None:
        """Hold conversations until `close`.

        Raises:
            Unauthenticated, Forbidden, InvalidRequest: The server will never take this worker as it is.
        """
        pause = RECONNECT_SECONDS[0]
        while not self._is_closing:
            began = time.monotonic()
            try:
                await self._converse()
            except grpc.aio.AioRpcError as error:
                problem = from_grpc(error)
                if isinstance(problem, FATAL):
                    raise problem from error
                if not self._is_closing:
                    log.warning("the stream to the server ended (%s); opening it again", problem)
            except TimeoutError:
                log.warning("the server has been silent for too long; opening the stream again")
            self._outbox = None
            if time.monotonic() - began > RECONNECT_SECONDS[1]:
                pause = RECONNECT_SECONDS[0]
            if not self._is_closing:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, RECONNECT_SECONDS[1])

    def reconnect(self) -> None:
        """Give up the stream, for example because a heartbeat was refused; the next one is opened at once."""
        if self._call is not None:
            self._call.cancel()

    def report(self, ending: Ending) -> None:
        """Report an outcome; it is sent with whatever else ends in this turn of the loop, or until a receipt comes."""
        self._endings.append(ending)
        self._all_receipted.clear()
        if len(self._endings) >= REPORTS_PER_MESSAGE_MAX:
            self._flush()
        else:
            self._flush_soon()

    def started(self, lease_id: str, ago_ms: int) -> None:
        """Report that a run started."""
        self._started.append(pb.Started(lease_id=lease_id, ago_ms=ago_ms))
        self._flush_soon()

    def say(self, reports: pb.Reports) -> None:
        """Send progress, checkpoints or log lines."""
        self._said.MergeFrom(reports)
        self._said_bytes += reports.ByteSize()
        if self._said_bytes >= MESSAGE_BYTES_MAX:
            self._flush()
        else:
            self._flush_soon()

    def grant(self, granted_total: int, by_queue: Mapping[str, int]) -> None:
        """Tell the server how many jobs it may have sent in all on this stream; in vain before it is welcomed.

        Args:
            by_queue: The same for each queue with a bound of its own.
        """
        # Until then the total is that of the stream before, which would be credit for all its jobs once more.
        if self._is_welcomed:
            credit = pb.Credit(granted_total=granted_total, granted_totals_by_queue=by_queue)
            self._send(pb.WorkerMessage(credit=credit))

    def awaits_success(self, lease_id: str) -> bool:
        """Say whether a success of this lease was reported and has no receipt yet."""
        return any(
            entry.lease_id == lease_id for message in self._unreceipted.values() for entry in message.reports.succeeded
        )

    def goodbye(self, reason: str) -> None:
        """Ask for no more jobs."""
        self._send(pb.WorkerMessage(goodbye=pb.Goodbye(reason=reason)))

    async def close(self, seconds: float) -> None:
        """Wait until every report is durable, at most so long, and end the conversation."""
        self._flush()
        try:
            async with asyncio.timeout(seconds):
                await self._all_receipted.wait()
        except TimeoutError:
            log.warning("%d reports have no receipt yet; their jobs will run again", len(self._unreceipted))
        self._is_closing = True
        if self._call is not None:
            self._call.cancel()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            loop = asyncio.get_running_loop()
            if len(self._unreceipted) < MESSAGES_UNRECEIPTED_MAX:
                loop.call_soon(self._flush)
            else:
                self._hold = loop.call_later(HOLD_SECONDS_MAX, self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        if not (self._endings or self._started or self._said_bytes):
            return
        endings, self._endings = self._endings, []
        for message in _messages_of(endings):
            self._sequence += 1
            reports = message.reports
            reports.sequence = self._sequence
            # The first message brings what was said along: the server hears it before it settles an outcome.
            if self._said_bytes:
                reports.MergeFrom(self._said)
                self._said, self._said_bytes = pb.Reports(), 0
            reports.started.extend(self._started)
            self._started = []
            self._unreceipted[self._sequence] = message
            self._all_receipted.clear()
            self._send(message)

    def _send(self, message: pb.WorkerMessage) -> None:
        # Between two streams nothing is lost: reports are kept, and credit is granted anew.
        if self._outbox is not None:
            self._said_at = time.monotonic()
            self._outbox.put_nowait(message)

    async def _converse(self) -> None:
        async with self._open_channel() as channel:
            call: Call = WorkerServiceStub(channel).Work(metadata=self._metadata)
            self._call = call
            outbox: asyncio.Queue[pb.WorkerMessage] = asyncio.Queue()
            self._outbox, self._is_welcomed = outbox, False
            outbox.put_nowait(pb.WorkerMessage(hello=self._hello()))
            for message in self._unreceipted.values():
                outbox.put_nowait(message)
            self._heard_at = self._said_at = time.monotonic()
            tasks = [
                asyncio.create_task(self._read(call)),
                asyncio.create_task(self._write(call, outbox)),
                asyncio.create_task(self._ping()),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            except asyncio.CancelledError:
                # The call was cancelled by `reconnect` or `close`; a cancellation of our own task looks the same to us,
                # and is told apart by asking the task.
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
            finally:
                self._call = None
                call.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, call: Call) -> None:
        while isinstance(message := await call.read(), pb.ServerMessage):
            self._heard_at = time.monotonic()
            kind = message.WhichOneof("message")
            if kind == "jobs":
                self._listener.jobs_arrived(message.jobs.jobs)
            elif kind == "receipts":
                self._take_receipts(message.receipts)
            elif kind == "ping":
                self._send(pb.WorkerMessage(ping=message.ping))
            elif kind == "notice":
                self._take_notice(message.notice)
                if message.notice.drain:
                    return
            elif kind == "welcome":
                self._ping_seconds = max(message.welcome.ping_interval_ms / 1000, 0.1)
                self._is_welcomed = True
                self._listener.connected(message.welcome)
        await _raise_unless_ok(call)

    async def _write(self, call: Call, outbox: "asyncio.Queue[pb.WorkerMessage]") -> None:
        try:
            while True:
                await call.write(await outbox.get())
        except asyncio.InvalidStateError:
            # The call ended while nobody wrote. Usually `_read` hears of it first.
            await _raise_unless_ok(call)

    async def _ping(self) -> None:
        """Say something now and then, and notice when the server says nothing.

        Its pings come once an interval and are answered, so there is hardly ever anything to say by ourselves.
        """
        nonce = 0
        while time.monotonic() - self._heard_at < SILENT_PINGS_MAX * self._ping_seconds:
            await asyncio.sleep(self._ping_seconds)
            if time.monotonic() - self._said_at > QUIET_PINGS_MAX * self._ping_seconds:
                nonce += 1
                self._send(pb.WorkerMessage(ping=pb.Ping(nonce=nonce)))
        raise TimeoutError("the server is silent")

    def _take_receipts(self, receipts: pb.Receipts) -> None:
        # Before they are forgotten: what was refused is looked up among them.
        if receipts.refused:
            self._listener.reports_refused(receipts.refused)
        for sequence in [number for number in self._unreceipted if number <= receipts.sequence]:
            del self._unreceipted[sequence]
        if self._hold is not None and len(self._unreceipted) < MESSAGES_UNRECEIPTED_MAX:
            self._flush()
        if not self._unreceipted and not self._endings:
            self._all_receipted.set()

    def _take_notice(self, notice: pb.Notice) -> None:
        if notice.message:
            log.info("the server says: %s", notice.message)
        if notice.ended:
            self._listener.leases_ended(notice.ended)


def _messages_of(endings: Sequence[Ending]) -> Iterator[pb.WorkerMessage]:
    """Yield outcomes as messages without a number; halves of what is too large for one message."""
    message = pb.WorkerMessage()
    reports = message.reports
    others = []
    for ending in endings:
        if isinstance(ending, Success):
            entry = reports.succeeded.add()
            entry.lease_id, entry.run_ms = ending.lease_id, ending.run_ms
            if ending.result:
                entry.result = ending.result
        else:
            others.append(ending)
    if others:
        reports.failed.extend(ending for ending in others if isinstance(ending, pb.Failed))
        reports.released.extend(ending for ending in others if isinstance(ending, pb.Released))
        reports.snoozed.extend(ending for ending in others if isinstance(ending, pb.Snoozed))
        reports.cancelled.extend(ending for ending in others if isinstance(ending, pb.Cancelled))
    # Measured once for all of them: to measure each outcome would cost every short job time.
    if len(endings) > 1 and message.ByteSize() > MESSAGE_BYTES_MAX:
        middle = len(endings) // 2
        yield from _messages_of(endings[:middle])
        yield from _messages_of(endings[middle:])
    else:
        yield message


async def _raise_unless_ok(call: Call) -> None:
    """Raise how a call that is over has ended, unless it ended well."""
    code, details = await call.code(), await call.details()
    if code != grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
