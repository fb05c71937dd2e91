"""WorkerService: the whole protocol for workers on one screen."""

import math
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1 import quorra_pb2_grpc as pb_grpc

from quorra_server.domain.errors import InvalidRequest
from quorra_server.domain.job import LeaseId, Report
from quorra_server.domain.limits import Limits, setting_of
from quorra_server.domain.states import OutcomeKind
from quorra_server.services import Services
from quorra_server.services.dispatch import Subscription
from quorra_server.services.lease import LeaseWish
from quorra_server.services.lease_ids import decode_lease_id, decode_lease_ids, text_of
from quorra_server.services.renew import renew_leases
from quorra_server.services.settle import lease_was_lost
from quorra_server.storage import workers
from quorra_server.storage.database import Database
from quorra_server.storage.workers import WorkerHello
from quorra_server.transports.grpc import convert
from quorra_server.transports.grpc.pings import Pings
from quorra_server.transports.grpc.work_stream import Context, StreamTerms, WorkStream

log = structlog.get_logger(__name__)

LEASE_SECONDS_DEFAULT = 30
SHUTTING_DOWN = "The server is shutting down; reconnect elsewhere."
WAIT_SECONDS_MAX = 60
QUEUES_MAX = 1_000
LABELS_MAX = 32
# How much is kept of what a worker says of itself.
ABOUT_BYTES_MAX = 255
PING_SECONDS = 5.0
# Streams that were opened together move on one by one.
AGE_JITTER = (0.9, 1.1)
# Three tries fit into a lease.
HEARTBEATS_PER_LEASE = 3
# Operators see by its heartbeats how much a worker runs, however long its leases are.
HEARTBEAT_SECONDS_MAX = 15.0
# What is shown as the version of workers that speak the plain way.
PLAIN_SDK = "LeaseJobs"


class WorkerService(pb_grpc.WorkerServiceServicer):
    """What workers call. Errors of the domain leave through the interceptor, with their status and code."""

    def __init__(
        self,
        services: Services,
        database: Database,
        limits: Limits,
        *,
        node: str,
        version: str,
        stream_age_seconds: float = 0,
    ) -> None:
        """Take the verbs, and the bounds of what workers may ask and report.

        Args:
            node: The name that workers are told.
            version: The version that workers are told.
            stream_age_seconds: When streams are asked to move on; never if 0.
        """
        self._limits = limits
        self._stream_age_seconds = stream_age_seconds
        self._services = services
        self._database = database
        self._node = node
        self._version = version
        self._streams: set[WorkStream] = set()
        self._pings = Pings(PING_SECONDS)
        self._is_draining = False

    async def LeaseJobs(self, request: pb.LeaseRequest, context: Any) -> AsyncIterator[pb.Job]:
        """Lease up to `max_jobs` jobs, stream them and end."""
        convert.refuse_unknown(request)
        wish = LeaseWish(
            worker=self._name(request.worker_id, "worker_id"),
            principal=context.principal,
            queues=self._plain_queues(request),
            types=[self._name(name, "types") for name in request.types],
            jobs_max=self._jobs(request.max_jobs),
            lease_ms=1000 * self._lease_seconds(request.lease_ttl_seconds),
            wait_seconds=_within(request.wait_seconds, 0, WAIT_SECONDS_MAX, "wait_seconds"),
        )
        hello = WorkerHello(
            wish.worker,
            boot_id="",
            node=self._node,
            host=convert.readable(context.peer(), ABOUT_BYTES_MAX),
            sdk=PLAIN_SDK,
            slots=wish.jobs_max,
            queues=wish.queues,
            types=wish.types,
        )
        async for batch in self._services.lease.lease_jobs(wish, lambda: self._services.plain_workers.note(hello)):
            leased = pb.Jobs()
            convert.add_jobs(leased, batch, batch.jobs)
            sent = 0
            try:
                for message in leased.jobs:
                    sent += 1
                    yield message
            finally:
                if sent < len(batch.jobs):
                    self._services.lease.give_back(batch.lease_ids()[sent:], context.principal)

    async def AckJob(self, request: pb.JobAck, context: Any) -> pb.JobAckResponse:
        """Record that a leased job succeeded."""
        convert.refuse_unknown(request)
        report = Report(
            _acked_lease(request),
            OutcomeKind.SUCCEEDED,
            result=convert.json_text(request.result, "result", self._limits),
        )
        return await self._settle_one(report, context.principal)

    async def NackJob(self, request: pb.JobAck, context: Any) -> pb.JobAckResponse:
        """Record that a leased job failed."""
        convert.refuse_unknown(request)
        if request.retry_after_ms < 0:
            raise InvalidRequest("retry_after_ms is negative; use 0 for the back-off.", field="retry_after_ms")
        report = Report(
            _acked_lease(request),
            OutcomeKind.FAILED,
            error=convert.readable(request.error_message, self._limits.error_bytes_max) or "failed without a message",
            delay_ms=min(request.retry_after_ms, convert.MILLISECONDS_MAX) or None,
            non_retryable=request.non_retryable,
        )
        return await self._settle_one(report, context.principal)

    async def _settle_one(self, report: Report, principal: str) -> pb.JobAckResponse:
        settled = await self._services.settle.settle_attempt(report, principal)
        if settled.accepted:
            assert settled.status is not None
            return pb.JobAckResponse(acknowledged=True, message=f"The job is {settled.status.value}.")
        if lease_was_lost(settled):
            return pb.JobAckResponse(
                acknowledged=False, message="lease_lost: the lease is over; nothing was changed. Drop the result."
            )
        assert settled.stands is not None
        return pb.JobAckResponse(
            acknowledged=settled.is_repeat,
            message=f"already_settled: this lease ended before, as {settled.stands.value}.",
        )

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:
        """Renew leases, and name the ones that are over."""
        seconds = self._lease_seconds(request.lease_ttl_seconds)
        worker, boot_id = self._name(request.worker_id, "worker_id"), self._name(request.boot_id, "boot_id")
        # One by one where one of them cannot be read: that one is refused.
        held = decode_lease_ids(request.lease_ids) or [decode_lease_id(text) for text in request.lease_ids]
        for entry in request.started:
            lease, ago_ms = decode_lease_id(entry.lease_id), convert.milliseconds(entry.ago_ms)
            self._services.starts.add(lease, context.principal, ago_ms)
        ended = await renew_leases(self._database.fast, context.principal, held, seconds * 1000)
        await workers.beat_worker(self._database.fast, worker, boot_id, max(0, min(request.running, 2**31 - 1)))
        return pb.HeartbeatReply(
            ended=[pb.LeaseEnded(lease_id=text_of(lease), reason=reason) for lease, reason in ended],
            lease_expires_in_ms=seconds * 1000,
        )

    async def Work(self, request_iterator: AsyncIterator[pb.WorkerMessage], context: Context) -> None:  # type: ignore[override]  # noqa: ARG002
        """Hold a worker's conversation."""
        first = await context.read()
        if not isinstance(first, pb.WorkerMessage) or first.WhichOneof("message") != "hello":
            raise InvalidRequest("The first message of a stream is Hello.", field="hello")
        terms, welcome = self._agree(first.hello, context.principal)  # type: ignore[attr-defined]
        hello = self._introduce(first.hello)
        await workers.record_worker(self._database.fast, hello)
        stream = WorkStream(context, self._services, self._database, terms)
        self._streams.add(stream)
        self._pings.add(stream)
        if self._is_draining:
            stream.drain(SHUTTING_DOWN)
        try:
            with self._services.beating.seeing(hello):
                await stream.run(welcome)
        finally:
            self._streams.discard(stream)
            self._pings.remove(stream)

    def start(self) -> None:
        """Begin to ask streams for signs of life."""
        self._pings.start()

    async def stop(self) -> None:
        """Ask no more."""
        await self._pings.stop()

    async def drain(self) -> None:
        """Tell all workers to reconnect elsewhere, and see that they hear it."""
        self._is_draining = True
        for stream in list(self._streams):
            stream.drain(SHUTTING_DOWN)
        for stream in list(self._streams):
            await stream.finish_sending()

    def _agree(self, hello: pb.Hello, principal: str) -> tuple[StreamTerms, pb.Welcome]:
        """Clamp the worker's wishes and say which were changed."""
        limits = self._limits
        wished = hello.lease_ttl_seconds or LEASE_SECONDS_DEFAULT
        lease_seconds = min(max(wished, limits.lease_seconds_min), limits.lease_seconds_max)
        adjusted = []
        if lease_seconds != wished:
            bound = "lease_seconds_min" if wished < lease_seconds else "lease_seconds_max"
            adjusted.append(
                f"lease_ttl_seconds: {wished} is out of bounds ({setting_of(bound)}); the lease is {lease_seconds} s."
            )
        subscriptions = [
            Subscription(self._name(queue.name, "queues"), max(queue.slots, 0), max(queue.weight, 0))
            for queue in hello.queues
        ] or [Subscription("default")]
        if len(subscriptions) > QUEUES_MAX:
            raise InvalidRequest(f"A stream takes at most {QUEUES_MAX} queues; open several streams.", field="queues")
        terms = StreamTerms(
            worker=self._name(hello.worker_id, "worker_id"),
            boot_id=self._name(hello.boot_id, "boot_id"),
            principal=principal,
            subscriptions=list({subscription.queue: subscription for subscription in subscriptions}.values()),
            types=[self._name(name, "types") for name in hello.types],
            lease_ms=lease_seconds * 1000,
            ping_seconds=PING_SECONDS,
            age_seconds=self._stream_age_seconds * random.uniform(*AGE_JITTER),  # noqa: S311 - jitter, not a secret
            limits=limits,
        )
        welcome = pb.Welcome(
            server_id=self._node,
            server_version=self._version,
            lease_ttl_seconds=lease_seconds,
            heartbeat_interval_ms=min(
                math.ceil(lease_seconds * 1000 / HEARTBEATS_PER_LEASE), int(HEARTBEAT_SECONDS_MAX * 1000)
            ),
            ping_interval_ms=int(PING_SECONDS * 1000),
            adjusted=adjusted,
            result_bytes_max=limits.result_bytes_max,
            sees_idle_workers=True,
        )
        return terms, welcome

    def _introduce(self, hello: pb.Hello) -> WorkerHello:
        return WorkerHello(
            worker=hello.worker_id,
            boot_id=hello.boot_id,
            node=self._node,
            host=convert.readable(hello.host, ABOUT_BYTES_MAX),
            pid=max(hello.pid, 0),
            sdk=convert.readable(f"{hello.sdk_name} {hello.sdk_version}".strip(), ABOUT_BYTES_MAX),
            slots=max(hello.slots, 0),
            queues=[queue.name for queue in hello.queues] or ["default"],
            types=list(hello.types),
            labels={
                convert.readable(key, ABOUT_BYTES_MAX): convert.readable(value, ABOUT_BYTES_MAX)
                for key, value in list(hello.labels.items())[:LABELS_MAX]
            },
        )

    def _name(self, value: str, field: str) -> str:
        if 1 <= len(value) <= self._limits.name_characters_max and value.isprintable():
            return value
        raise InvalidRequest(
            f"{field} needs 1 to {self._limits.name_characters_max} printable characters "
            f"({setting_of('name_characters_max')}).",
            field=field,
        )

    def _plain_queues(self, request: pb.LeaseRequest) -> Sequence[str]:
        wanted = ([request.queue] if request.queue else []) + list(request.queues)
        if len(wanted) > QUEUES_MAX:
            raise InvalidRequest(f"A request takes at most {QUEUES_MAX} queues.", field="queues")
        return list(dict.fromkeys(self._name(queue, "queue") for queue in wanted)) or ["default"]

    def _jobs(self, wanted: int) -> int:
        if 0 <= wanted <= self._limits.lease_jobs_max:
            return wanted or 1
        raise InvalidRequest(
            f"max_jobs is {wanted}; use 1 to {self._limits.named('lease_jobs_max')}.", field="max_jobs"
        )

    def _lease_seconds(self, wanted: int) -> int:
        limits, seconds = self._limits, wanted or LEASE_SECONDS_DEFAULT
        if limits.lease_seconds_min <= seconds <= limits.lease_seconds_max:
            return seconds
        raise InvalidRequest(
            f"lease_ttl_seconds is {seconds}; use {limits.named('lease_seconds_min')} to "
            f"{limits.named('lease_seconds_max')}.",
            field="lease_ttl_seconds",
        )


def _within(value: int, low: int, high: int, field: str) -> int:
    if low <= value <= high:
        return value
    raise InvalidRequest(f"{field} is {value}; use {low} to {high}.", field=field)


def _acked_lease(request: pb.JobAck) -> LeaseId:
    lease = decode_lease_id(request.lease_id)
    if request.job_id and request.job_id != str(lease.job_id):
        raise InvalidRequest(
            "job_id and lease_id belong to different jobs; send back both as they came.", field="job_id"
        )
    return lease
