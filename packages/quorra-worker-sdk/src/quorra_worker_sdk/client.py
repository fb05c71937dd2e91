"""Clients: submit, read, wait, cancel and retry jobs from code; and `.enqueue()` of handlers."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar

import grpc
import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub

from quorra_worker_sdk import codec, config
from quorra_worker_sdk.channels import open_aio_channel, open_channel, target_of
from quorra_worker_sdk.errors import JobFailed, StorageUnavailable, WaitTimedOut, from_grpc
from quorra_worker_sdk.handlers import Handler, Retry

P = ParamSpec("P")
R = TypeVar("R")

CALL_SECONDS_MAX = 30.0
# The server answers a wait after this time at the latest; longer waits are several calls.
WAIT_MS_MAX = 30_000
RECONNECT_PAUSE_SECONDS = 0.5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TERMINAL = frozenset({"succeeded", "dead", "cancelled"})
# Takes the name of a call and its request, and returns the reply or raises an error of the SDK.
StandIn = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to submit.

    Attributes:
        payload: Anything that JSON writes as an object; bytes are taken as JSON text.
        delay: Until it may run; give this or `run_at`.
        max_retries: Runs after the first; None leaves it to the server (3).
        unique_key: At most one live job has it.
        id: A UUID of the caller's, which makes repeating safe.
    """

    type: str
    payload: Any
    queue: str = ""
    priority: int = 0
    delay: timedelta | None = None
    run_at: datetime | None = None
    max_retries: int | None = None
    unique_key: str = ""
    tags: Sequence[str] = ()
    timeout: timedelta | None = None
    retry: Retry | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submission; `existing` says that it was merged into a job that existed."""

    id: str
    status: str
    run_at: datetime
    existing: bool


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as it is."""

    id: str
    type: str
    payload: Any
    queue: str
    priority: int
    status: str
    attempts: int
    deliveries: int
    generation: int
    max_retries: int
    last_error: str | None
    result: Any
    created_at: datetime
    run_at: datetime
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Say whether its life has ended."""
        return self.status in TERMINAL


class AsyncClient:
    """Talks to a server from an event loop."""

    def __init__(self, address: str | None = None, *, api_key: str | None = None) -> None:
        """Take where the server is (`QUORRA_GRPC_ADDR`) and the key (`QUORRA_API_KEY`); connects when first used.

        Raises:
            ValueError: The address or the key cannot be one.
        """
        settings = config.load()
        self._address = address or settings.address
        target_of(self._address)
        self._api_key = settings.api_key if api_key is None else config.api_key_of(api_key, "api_key")
        self._metadata = _metadata(self._api_key)
        self._channel: grpc.aio.Channel | None = None
        self._stand_in: StandIn | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def submit(self, job: NewJob, *, idempotency_key: str = "") -> Submitted:
        """Submit one job; it is durable when this returns.

        Raises:
            InvalidRequest: The job is not acceptable; the message names the field.
            KeyReused: The id or the idempotency key belongs to another job.
            OutcomeUnknown: Not known whether it was recorded; repeat it with the same id or idempotency key.
            StorageUnavailable: It was not recorded; repeat it.
        """
        request = pb.SubmitJobRequest(job=spec_of(job), idempotency_key=idempotency_key)
        return _submitted((await self._call("SubmitJob", request)).job)

    async def submit_many(self, jobs: Iterable[NewJob]) -> list[Submitted]:
        """Submit up to 10,000 jobs of 16 MiB together, all or none; answers in the order given.

        Raises:
            InvalidRequest: A job is not acceptable; the message names it and the field.
            KeyReused: An id belongs to another job.
            OutcomeUnknown: Not known whether they were recorded; repeat them if each has an id.
            PayloadTooLarge: They are too many or too large for one call; send fewer.
            StorageUnavailable: They were not recorded; repeat them.
        """
        return [_submitted(job) for job in (await self._call("SubmitJobs", specs_of(jobs))).jobs]

    async def get(self, job_id: str) -> JobState:
        """Read a job.

        Raises:
            JobNotFound: No job has this id.
        """
        return _state(await self._call("GetJob", pb.GetJobRequest(id=job_id)))

    async def wait(self, job_id: str, *, timeout: timedelta | None = None) -> JobState:
        """Return a job when its life has ended, through lost connections.

        Raises:
            WaitTimedOut: It has not ended within `timeout`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
        while True:
            left_ms = WAIT_MS_MAX if deadline is None else int((deadline - time.monotonic()) * 1000)
            request = pb.GetJobRequest(id=job_id, wait_ms=max(0, min(left_ms, WAIT_MS_MAX)))
            try:
                state = _state(await self._call("GetJob", request, seconds=CALL_SECONDS_MAX + WAIT_MS_MAX / 1000))
            except StorageUnavailable:
                await asyncio.sleep(RECONNECT_PAUSE_SECONDS)
            else:
                if state.is_over:
                    return state
            if left_ms <= 0:
                raise WaitTimedOut(f"job {job_id} has not ended yet; it goes on")

    async def cancel(self, job_id: str, reason: str = "") -> JobState:
        """Cancel a job; cancelling twice is fine.

        Raises:
            IllegalTransition: It succeeded or is dead.
        """
        return _state(await self._call("CancelJob", pb.CancelJobRequest(id=job_id, reason=reason)))

    async def retry(self, job_id: str) -> JobState:
        """Run a failed, delayed or dead job now.

        Raises:
            IllegalTransition: It is in another state.
        """
        return _state(await self._call("RetryJob", pb.RetryJobRequest(id=job_id)))

    def answer_with(self, stand_in: StandIn | None) -> None:
        """Let something else than a server answer this client, for tests; None ends that."""
        self._stand_in = stand_in
        self.synchronous.answer_with(stand_in)

    async def close(self) -> None:
        """Close the connection; the next call opens it again."""
        channel, self._channel = self._channel, None
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.close()

    @functools.cached_property
    def synchronous(self) -> "Client":
        """The same server for code without an event loop, such as handlers in threads; made when first used."""
        return Client(self._address, api_key=self._api_key)

    async def _call(self, method: str, request: Any, *, seconds: float = CALL_SECONDS_MAX) -> Any:
        if self._stand_in is not None:
            return self._stand_in(method, request)
        loop = asyncio.get_running_loop()
        if self._channel is None or self._loop is not loop:
            # A channel belongs to the loop that opened it; one of an earlier `asyncio.run` died with its loop.
            self._channel, self._loop = open_aio_channel(self._address), loop
        try:
            stub = JobServiceStub(self._channel)
            return await getattr(stub, method)(request, timeout=seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error) from error


class Client:
    """Talks to a server from ordinary code; safe to share between threads."""

    def __init__(self, address: str | None = None, *, api_key: str | None = None) -> None:
        """Take where the server is (`QUORRA_GRPC_ADDR`) and the key (`QUORRA_API_KEY`).

        Raises:
            ValueError: The address or the key cannot be one.
        """
        settings = config.load()
        self._metadata = _metadata(settings.api_key if api_key is None else config.api_key_of(api_key, "api_key"))
        self._stand_in: StandIn | None = None
        self._channel = open_channel(address or settings.address)
        self._stub = JobServiceStub(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, job: NewJob, *, idempotency_key: str = "") -> Submitted:
        """Submit one job; see `AsyncClient.submit`."""
        request = pb.SubmitJobRequest(job=spec_of(job), idempotency_key=idempotency_key)
        return _submitted(self._call("SubmitJob", request).job)

    def submit_many(self, jobs: Iterable[NewJob]) -> list[Submitted]:
        """Submit up to 10,000 jobs of 16 MiB together, all or none; see `AsyncClient.submit_many`."""
        return [_submitted(job) for job in self._call("SubmitJobs", specs_of(jobs)).jobs]

    def get(self, job_id: str) -> JobState:
        """Read a job; see `AsyncClient.get`."""
        return _state(self._call("GetJob", pb.GetJobRequest(id=job_id)))

    def wait(self, job_id: str, *, timeout: timedelta | None = None) -> JobState:
        """Return a job when its life has ended; see `AsyncClient.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
        while True:
            left_ms = WAIT_MS_MAX if deadline is None else int((deadline - time.monotonic()) * 1000)
            request = pb.GetJobRequest(id=job_id, wait_ms=max(0, min(left_ms, WAIT_MS_MAX)))
            try:
                state = _state(self._call("GetJob", request, seconds=CALL_SECONDS_MAX + WAIT_MS_MAX / 1000))
            except StorageUnavailable:
                time.sleep(RECONNECT_PAUSE_SECONDS)
            else:
                if state.is_over:
                    return state
            if left_ms <= 0:
                raise WaitTimedOut(f"job {job_id} has not ended yet; it goes on")

    def cancel(self, job_id: str, reason: str = "") -> JobState:
        """Cancel a job; see `AsyncClient.cancel`."""
        return _state(self._call("CancelJob", pb.CancelJobRequest(id=job_id, reason=reason)))

    def retry(self, job_id: str) -> JobState:
        """Run a failed, delayed or dead job now; see `AsyncClient.retry`."""
        return _state(self._call("RetryJob", pb.RetryJobRequest(id=job_id)))

    def answer_with(self, stand_in: StandIn | None) -> None:
        """Let something else than a server answer this client, for tests; None ends that."""
        self._stand_in = stand_in

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: str, request: Any, *, seconds: float = CALL_SECONDS_MAX) -> Any:
        if self._stand_in is not None:
            return self._stand_in(method, request)
        try:
            return getattr(self._stub, method)(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_grpc(error) from error


@dataclass(frozen=True, slots=True)
class EnqueuedJob(Generic[R]):
    """A job that a handler's `.enqueue()` submitted."""

    id: str
    existing: bool
    _client: AsyncClient
    _handler: Handler[..., R]

    async def result(self, *, timeout: timedelta | None = None) -> R:
        """Return what the handler returned, when it has.

        Raises:
            JobFailed: The job ended dead or cancelled.
            WaitTimedOut: It has not ended within `timeout`.
        """
        return self._result_of(await self._client.wait(self.id, timeout=timeout))

    def result_sync(self, *, timeout: timedelta | None = None) -> R:
        """Return what the handler returned, from code without an event loop; see `result`."""
        return self._result_of(self._client.synchronous.wait(self.id, timeout=timeout))

    def _result_of(self, state: JobState) -> R:
        if state.status != "succeeded":
            raise JobFailed(f"job {self.id} is {state.status}: {state.last_error or 'no error was recorded'}")
        result: R = codec.convert(state.result, self._handler.binding.return_type)
        return result


class JobHandler(Generic[P, R]):
    """A handler as its module sees it: call the function itself, or enqueue jobs for it."""

    def __init__(self, handler: Handler[P, R], client: AsyncClient, options: NewJob | None = None) -> None:
        """Take the handler and the client to submit through."""
        self.handler = handler
        self._client = client
        self._options = options or _defaults(handler)
        self.__doc__ = handler.function.__doc__
        self.__name__ = handler.function.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, with its context if it takes one; no job is made."""
        return self.handler.function(*args, **kwargs)

    def options(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | None = None,
        run_at: datetime | None = None,
        max_retries: int | None = None,
        unique_key: str | None = None,
        tags: Sequence[str] | None = None,
        timeout: timedelta | None = None,
        id: str | None = None,
    ) -> "JobHandler[P, R]":
        """Return this handler with other options for its next jobs; None leaves one as it is."""
        given = {
            "queue": queue, "priority": priority, "delay": delay, "run_at": run_at, "max_retries": max_retries,
            "unique_key": unique_key, "tags": tags, "timeout": timeout, "id": id,
        }  # fmt: skip
        changed = {name: value for name, value in given.items() if value is not None}
        return JobHandler(self.handler, self._client, replace(self._options, **changed))  # type: ignore[arg-type]

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob[R]:
        """Submit a job with the handler's own arguments; it is durable when this returns."""
        submitted = await self._client.submit(self.new_job(*args, **kwargs))
        return EnqueuedJob(submitted.id, submitted.existing, self._client, self.handler)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob[R]:
        """Submit a job from code without an event loop, such as a web application or a handler in a thread.

        On an event loop it would hold the loop up; use `enqueue` there.
        """
        submitted = self._client.synchronous.submit(self.new_job(*args, **kwargs))
        return EnqueuedJob(submitted.id, submitted.existing, self._client, self.handler)

    def new_job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """Return the job that `.enqueue()` would submit, for `submit_many`."""
        return replace(self._options, payload=self.handler.binding.payload(args, kwargs))


def _defaults(handler: Handler[..., Any]) -> NewJob:
    return NewJob(
        type=handler.type,
        payload=b"{}",
        queue=handler.queue,
        max_retries=handler.retry.max_retries,
        timeout=handler.timeout,
        retry=handler.retry,
    )


def _metadata(api_key: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", api_key),) if api_key else ()


def spec_of(job: NewJob) -> pb.JobSpec:
    """Return a job as it travels."""
    return pb.JobSpec(**_fields_of(job))


def specs_of(jobs: Iterable[NewJob]) -> pb.SubmitJobsRequest:
    """Return jobs as they travel."""
    request = pb.SubmitJobsRequest()
    # Made in place: a list of messages would be copied into the request one by one.
    for job in jobs:
        request.jobs.add(**_fields_of(job))
    return request


def _fields_of(job: NewJob) -> dict[str, Any]:
    """Return what a job says, and nothing that it leaves to the server: each field costs time."""
    fields: dict[str, Any] = {
        "type": job.type,
        "payload": job.payload if isinstance(job.payload, bytes) else codec.encode(job.payload),
    }
    for name in ("id", "queue", "priority", "unique_key", "tags"):
        if value := getattr(job, name):
            fields[name] = value
    if job.max_retries is not None:
        fields["max_retries"] = job.max_retries
    if job.delay is not None:
        fields["delay_ms"] = round(job.delay.total_seconds() * 1000)
    if job.run_at is not None:
        fields["run_at"] = Timestamp()
        fields["run_at"].FromDatetime(job.run_at.astimezone(UTC).replace(tzinfo=None))
    if job.timeout is not None:
        fields["timeout_ms"] = round(job.timeout.total_seconds() * 1000)
    if job.retry is not None and job.retry.backoff is not None:
        fields["backoff"] = pb.Backoff(
            kind=job.retry.backoff,
            base_seconds=job.retry.base_seconds,
            max_seconds=job.retry.max_seconds,
            jitter=job.retry.jitter,
        )
    return fields


def _submitted(job: pb.SubmittedJob) -> Submitted:
    run_at = job.run_at
    # `ToDatetime` would take longer than all the rest.
    due = EPOCH + timedelta(seconds=run_at.seconds, microseconds=run_at.nanos // 1000)
    return Submitted(job.id, job.status, due, job.existing)


def _state(job: pb.JobDetails) -> JobState:
    return JobState(
        id=job.id,
        type=job.type,
        payload=msgspec.json.decode(job.payload),
        queue=job.queue,
        priority=job.priority,
        status=job.status,
        attempts=job.attempts,
        deliveries=job.deliveries,
        generation=job.generation,
        max_retries=job.max_retries,
        last_error=job.last_error or None,
        result=msgspec.json.decode(job.result) if job.result else None,
        created_at=job.created_at.ToDatetime(tzinfo=UTC),
        run_at=job.run_at.ToDatetime(tzinfo=UTC),
        finished_at=job.finished_at.ToDatetime(tzinfo=UTC) if job.HasField("finished_at") else None,
    )
