"""One `Work` conversation: credit, starts and outcomes come in, jobs, receipts and notices go out.

One task reads and one writes; everything that is to be written goes through a queue, because two writers on one stream
break it. A stream that breaks does not free its leases: the worker may be alive behind a cut.
"""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from quorra_proto.v1 import quorra_pb2 as pb

from quorra_server.domain.errors import InvalidRequest, QuorraError
from quorra_server.domain.job import LeaseBatch, LeasedJob, LeaseId, Report
from quorra_server.domain.limits import Limits
from quorra_server.domain.states import OutcomeKind
from quorra_server.observability.logging import log_trouble
from quorra_server.services import Services
from quorra_server.services.dispatch import Stream, Subscription
from quorra_server.services.lease_ids import decode_lease_id
from quorra_server.services.settle import Incident
from quorra_server.storage import leases
from quorra_server.storage.database import Database
from quorra_server.transports.grpc import convert
from quorra_server.transports.grpc.notes import Notes

log = structlog.get_logger(__name__)

PINGS_MISSED_MAX = 3
# A worker that does not read is dropped before its unread messages fill the memory.
UNSENT_MESSAGES_MAX = 1_000
JOBS_PER_MESSAGE = 500
# gRPC takes messages of 4 MiB by default, in every language; a character may have four bytes, and each job has a head.
CHARACTERS_PER_MESSAGE = 1_000_000
# More messages of one stream than these wait to be settled: it is read on when some of them are.
REPORTS_UNDER_WAY_MAX = 64
UNSENT = "the worker left before it was sent the job"
SETTLE_TRIES_PAUSE_SECONDS = (0.05, 0.5)

Context = grpc.aio.ServicerContext[pb.WorkerMessage, pb.ServerMessage]


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """What the server grants a stream, after it clamped the worker's wishes."""

    worker: str
    boot_id: str
    principal: str
    subscriptions: Sequence[Subscription]
    types: Sequence[str]
    lease_ms: int
    ping_seconds: float
    age_seconds: float
    limits: Limits


class WorkStream:
    """The server's side of one stream."""

    def __init__(self, context: Context, services: Services, database: Database, terms: StreamTerms) -> None:
        """Take the conversation after its `Hello`."""
        self._context = context
        self._services = services
        self._database = database
        self._terms = terms
        self._unsent: asyncio.Queue[pb.ServerMessage] = asyncio.Queue(UNSENT_MESSAGES_MAX)
        # Set when the worker does not read, or says nothing: there is nobody to talk to.
        self._is_deaf = asyncio.Event()
        self._pings = 0
        # Pings that were sent since the worker was last heard, not seconds: of a server that was frozen itself, nobody
        # could be heard.
        self._missed_pings = 0
        self._reads = True
        self._queue_of_batch: dict[int, str] = {}
        self._unsettled: dict[int, int] = {}
        self._taken_away: dict[int, set[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_receipt = 0
        # The conversation itself: after a goodbye the stream is sent nothing more, and still reports.
        self._is_over = False
        self._answered: set[int] = set()
        self._notes = Notes(database.fast, terms.worker, terms.principal, terms.limits)
        self.stream = Stream(
            worker=terms.worker,
            principal=terms.principal,
            lease_ms=terms.lease_ms,
            subscriptions=terms.subscriptions,
            types=terms.types,
            deliver=self._deliver,
            end_leases=self._end_leases,
        )

    async def run(self, welcome: pb.Welcome) -> None:
        """Hold the conversation until one side ends it."""
        self._send(pb.ServerMessage(welcome=welcome))
        self._services.dispatcher.open_stream(self.stream, self._terms.subscriptions)
        reader = asyncio.create_task(self._read())
        others = [
            asyncio.create_task(self._write()),
            asyncio.create_task(self._is_deaf.wait()),
        ]
        aging = asyncio.create_task(self._age())
        try:
            done, _ = await asyncio.wait([reader, *others], return_when=asyncio.FIRST_COMPLETED)
            self._reads = reader not in done
            if not self._reads and not self._is_deaf.is_set():
                self._services.dispatcher.close_stream(self.stream)
                await self._finish_reports()
            for task in done:
                task.result()
        finally:
            self._is_over = True
            self._services.dispatcher.close_stream(self.stream)
            # Before anything is waited for: a worker that goes away meanwhile has this very task cancelled.
            self._drop_unsent()
            for task in (reader, *others, aging):
                task.cancel()
            await asyncio.gather(reader, *others, aging, return_exceptions=True)
            await self._services.starts.flush()

    async def _age(self) -> None:
        """Ask the worker to connect anew once the stream is old; jobs that it is sent after that could be lost."""
        if self._terms.age_seconds:
            await asyncio.sleep(self._terms.age_seconds)
            self._services.dispatcher.close_stream(self.stream)
            self.drain("The stream is old; reconnect, so that load evens out over the servers.")

    def drain(self, message: str) -> None:
        """Tell the worker to reconnect elsewhere and finish what runs."""
        self._send(pb.ServerMessage(notice=pb.Notice(drain=True, message=message)))

    async def finish_sending(self) -> None:
        """Wait until everything that was said is written."""
        await self._unsent.join()

    def _drop_unsent(self) -> None:
        """Forget what nobody reads: an ended stream is part of a cycle, and stays until the collector comes by."""
        while not self._unsent.empty():
            self._unsent.get_nowait()
            self._unsent.task_done()

    def _send(self, message: pb.ServerMessage) -> None:
        if self._is_over:
            return
        try:
            self._unsent.put_nowait(message)
        except asyncio.QueueFull:
            if not self._is_deaf.is_set():
                log.warning("worker_does_not_read", worker=self._terms.worker)
            self._is_deaf.set()

    async def _write(self) -> None:
        while True:
            message = await self._unsent.get()
            await self._context.write(message)
            self._unsent.task_done()

    def ping(self) -> None:
        """Ask the worker for a sign of life; end the stream if it has missed the last ones. Called once an interval."""
        if self._reads and self._missed_pings >= PINGS_MISSED_MAX:
            log.info("worker_stream_silent", worker=self._terms.worker)
            self._is_deaf.set()
            return
        self._pings += 1
        self._missed_pings += 1
        self._send(pb.ServerMessage(ping=pb.Ping(nonce=self._pings)))

    async def _read(self) -> None:
        while isinstance(message := await self._context.read(), pb.WorkerMessage):  # else it is the end
            self._missed_pings = 0
            kind = message.WhichOneof("message")
            if kind == "reports":
                self._take_reports(message.reports)
                await self._catch_up()
            elif kind == "credit":
                credit = message.credit
                self._services.dispatcher.grant(self.stream, credit.granted_total, credit.granted_totals_by_queue)
            elif kind == "goodbye":
                self._services.dispatcher.close_stream(self.stream)
            elif kind == "hello":
                raise InvalidRequest("Hello is the first message of a stream, and only the first.", field="hello")

    async def _catch_up(self) -> None:
        """Read no further while very much waits to be settled; the worker is not silent meanwhile."""
        while len(self._tasks) > REPORTS_UNDER_WAY_MAX:
            await asyncio.wait(self._tasks, timeout=self._terms.ping_seconds, return_when=asyncio.FIRST_COMPLETED)
            self._missed_pings = 0

    def _deliver(self, batch: LeaseBatch) -> None:
        if not self.stream.is_open:
            self._track(self._give_back(batch))
            return
        self._queue_of_batch[batch.batch] = batch.queue
        self._unsettled[batch.batch] = len(batch.jobs)
        for jobs in _messages(batch):
            # Filled in place: a message that is given to the constructor of another one is copied.
            message = pb.ServerMessage()
            convert.add_jobs(message.jobs, batch, jobs)
            self._send(message)

    async def _give_back(self, batch: LeaseBatch) -> None:
        """Release what was leased for a stream that closed meanwhile; it was never sent."""
        await self._services.settle.release_unsent(batch.lease_ids(), self._terms.principal, UNSENT)

    def _end_leases(self, lease_ids: Sequence[str], reason: str) -> None:
        ended: dict[str, LeaseId] = {}
        for text in lease_ids:
            with contextlib.suppress(InvalidRequest):  # a hint from elsewhere that is not ours
                lease = decode_lease_id(text)
                if lease.batch in self._queue_of_batch and not self._was_taken_away(lease):
                    ended[text] = lease
        if ended:
            notices = [pb.LeaseEnded(lease_id=text, reason=reason) for text in ended]
            self._send(pb.ServerMessage(notice=pb.Notice(ended=notices)))
            self._take_away(list(ended.values()))

    def _take_reports(self, message: pb.Reports) -> None:
        self._next_receipt = self._next_receipt or message.sequence
        reports, refused = convert.outcome_reports(message, self._terms.limits)
        self._services.starts.forget(report.lease for report in reports)
        for entry in message.started:
            with contextlib.suppress(InvalidRequest):  # a start decides nothing: its outcome will be refused
                lease, ago_ms = decode_lease_id(entry.lease_id), convert.milliseconds(entry.ago_ms)
                self._services.starts.add(lease, self._terms.principal, ago_ms)
        for extension in message.extended:
            self._track(self._extend(extension))
        if message.progress or message.checkpoints or message.logs:
            self._notes.keep(message)
        self._track(self._settle(message.sequence, reports, refused))

    def _track(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, sequence: int, reports: list[Report], refused: list[pb.Refused]) -> None:
        """Settle one message's outcomes, however long the database is away, and then send its receipt."""
        await self._notes.kept()
        pause = SETTLE_TRIES_PAUSE_SECONDS[0]
        while reports:
            try:
                undecided = await self._services.settle.settle_attempts(reports, self._terms.principal)
            except Exception as error:
                # Whatever it was, none of them is to blame, and no receipt may pass them by: they are tried until the
                # worker is gone.
                if self._is_over:
                    return
                log_trouble(log, "settle_failed", error, worker=self._terms.worker, reports=len(reports))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, SETTLE_TRIES_PAUSE_SECONDS[1])
            else:
                refused.extend(map(convert.refusal, undecided.refused))
                if undecided.incidents:
                    refused.extend(map(convert.incident_refusal, undecided.incidents))
                    self._give_up(undecided.incidents)
                self._forget_ended([report.lease for report in reports])
                break
        self._receipt(sequence, refused)

    async def _extend(self, extension: pb.Extended) -> None:
        """Let a run go on past its timeout, however long the database is away: until then nobody can end it either."""
        with contextlib.suppress(InvalidRequest):  # it names no lease of ours, so there is nothing to extend
            lease, extra_ms = decode_lease_id(extension.lease_id), convert.milliseconds(extension.extra_ms)
            while not self._is_over:
                try:
                    await leases.extend_run(self._database.fast, self._terms.principal, lease, extra_ms)
                    return
                except QuorraError as error:
                    log_trouble(log, "extension_failed", error, worker=self._terms.worker)
                    await asyncio.sleep(SETTLE_TRIES_PAUSE_SECONDS[1])

    def _forget_ended(self, ended: Sequence[LeaseId]) -> None:
        """Give the places of leases that ended back, each once: a worker may report one that was taken from it."""
        counts: dict[int, int] = defaultdict(int)
        for lease in ended:
            if not self._was_taken_away(lease):
                counts[lease.batch] += 1
        for batch, count in counts.items():
            queue = self._queue_of_batch.get(batch)
            if queue is None:
                continue
            self._services.dispatcher.settled(self.stream, queue, count)
            self._unsettled[batch] -= count
            if self._unsettled[batch] <= 0:
                del self._unsettled[batch], self._queue_of_batch[batch]
                self._taken_away.pop(batch, None)
                self._notes.forget(batch)
                self.stream.small_handovers.pop(batch, None)
                self._services.closing.all_ended(batch)

    def _give_up(self, incidents: Sequence[Incident]) -> None:
        """Let the leases of reports that cannot be recorded run out; what had started is charged all the same."""
        self._take_away([met.report.lease for met in incidents])
        for met in incidents:
            if met.report.kind not in (OutcomeKind.RELEASED, OutcomeKind.SNOOZED):
                self._services.starts.add(met.report.lease, self._terms.principal, met.report.run_ms or 0)

    def _take_away(self, ended: Sequence[LeaseId]) -> None:
        """Give the places of leases back that the worker may report yet: that gives no place back again."""
        self._forget_ended(ended)
        for lease in ended:
            if lease.batch in self._queue_of_batch:
                self._taken_away.setdefault(lease.batch, set()).add(lease.ordinal)

    def _was_taken_away(self, lease: LeaseId) -> bool:
        return bool(self._taken_away) and lease.ordinal in self._taken_away.get(lease.batch, ())

    def _receipt(self, sequence: int, refused: Sequence[pb.Refused]) -> None:
        """Send a receipt up to the last message before which none is open: a receipt covers all earlier ones."""
        self._answered.add(sequence)
        while self._next_receipt in self._answered:
            self._answered.discard(self._next_receipt)
            self._next_receipt += 1
        self._send(pb.ServerMessage(receipts=pb.Receipts(sequence=self._next_receipt - 1, refused=refused)))

    async def _finish_reports(self) -> None:
        """Answer what was reported before the worker closed its side."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        with contextlib.suppress(TimeoutError):  # a worker that reads no more needs no more receipts
            await asyncio.wait_for(self._unsent.join(), self._terms.ping_seconds)


def _fits(batch: LeaseBatch) -> bool:
    """Say whether a batch fits into one message, as most do."""
    return (
        len(batch.jobs) <= JOBS_PER_MESSAGE
        and not batch.checkpoints
        and sum([len(job.payload) for job in batch.jobs]) <= CHARACTERS_PER_MESSAGE
    )


def _messages(batch: LeaseBatch) -> Iterator[list[LeasedJob]]:
    """Cut a batch into what fits into a message each; a large job has one to itself."""
    if _fits(batch):
        yield batch.jobs
        return
    jobs: list[LeasedJob] = []
    size = 0
    for job in batch.jobs:
        length = len(job.payload) + (len(batch.checkpoints.get(job.job_id, "")) if batch.checkpoints else 0)
        if jobs and (len(jobs) == JOBS_PER_MESSAGE or size + length > CHARACTERS_PER_MESSAGE):
            yield jobs
            jobs, size = [], 0
        jobs.append(job)
        size += length
    yield jobs
