"""What a job costs server, worker and client in Python, part by part, with nothing but Python at work.

Beside each part stands its floor: what the same libraries take for what could not be left out.
"""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import msgspec
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import LeaseBatch, LeasedJob
from quorra_server.domain.limits import Limits
from quorra_server.domain.validation import validate_job
from quorra_server.services.lease_ids import encode_lease_id, lease_id_tail
from quorra_server.transports.grpc import convert
from quorra_worker_sdk import NewJob
from quorra_worker_sdk.client import specs_of
from quorra_worker_sdk.executor import Executor
from quorra_worker_sdk.handlers import Binding, Handler, Retry

from benchmarks.generators.stopwatch import Stopwatch
from benchmarks.load import QUEUE, payload

# As many as a message brings.
JOBS = 500
LIMITS = Limits()
PAYLOAD = payload(0)
TEXT = json.dumps(PAYLOAD)
Work = Callable[[], Awaitable[object]]


async def run(*, repeats: int, **_: Any) -> dict[str, Any]:
    """Return what each part takes for a job, in microseconds, and its floor: the quickest of so many repeats."""
    stopwatch = Stopwatch()
    parts = {
        "client: a submission's message, and its bytes": _client(),
        "server: a submission over gRPC, read and checked": _submission(),
        "server: a leased job's message, and its bytes": _leased_job(),
        "worker: a payload read, its handler run, its outcome": _run(),
        "handler: called and awaited": _handler(),
        "server: a report, read and checked": _report(),
    }
    costs = {name: [await _microseconds(work, repeats) for work in pair] for name, pair in parts.items()}
    async with _Wire() as wire:
        pair = wire.messages, wire.bytes
        costs["stream: a leased job, both ends"] = [await _microseconds(work, repeats) for work in pair]
    return stopwatch.reply(JOBS, costs=costs)


async def _microseconds(work: Work, repeats: int) -> float:
    quickest = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        await work()
        quickest = min(quickest, time.process_time() - began)
    return quickest * 1_000_000 / JOBS


def _plain(work: Callable[[], object]) -> Work:
    async def call() -> object:
        return work()

    return call


def _leased_job() -> tuple[Work, Work]:
    batch = _batch()
    return _plain(lambda: _message(batch).SerializeToString()), _plain(_message(batch).SerializeToString)


def _batch() -> LeaseBatch:
    now_us = time.time_ns() // 1000
    jobs = [
        LeasedJob(str(new_job_id()), TEXT, now_us, "noop", 0, 0, ordinal, now_us, 0, 1, 1, 3)
        for ordinal in range(1, JOBS + 1)
    ]
    return LeaseBatch(1, uuid4(), QUEUE, now_us, 30_000, jobs)


def _message(batch: LeaseBatch) -> pb.ServerMessage:
    message = pb.ServerMessage()
    convert.add_jobs(message.jobs, batch, batch.jobs)
    return message


def _report() -> tuple[Work, Work]:
    tail = lease_id_tail(1, uuid4())
    message = pb.WorkerMessage()
    for ordinal in range(1, JOBS + 1):
        message.reports.succeeded.add(lease_id=encode_lease_id(ordinal, new_job_id().hex, tail), run_ms=1)
    raw = message.SerializeToString()
    read = pb.WorkerMessage.FromString
    return _plain(lambda: convert.outcome_reports(read(raw).reports, LIMITS)), _plain(lambda: read(raw))


def _submission() -> tuple[Work, Work]:
    raw = specs_of([NewJob("noop", PAYLOAD, queue=QUEUE)] * JOBS).SerializeToString()
    read = pb.SubmitJobsRequest.FromString
    return (
        _plain(lambda: [validate_job(convert.draft(spec), LIMITS) for spec in read(raw).jobs]),
        _plain(lambda: [msgspec.json.decode(spec.payload) for spec in read(raw).jobs]),
    )


def _run() -> tuple[Work, Work]:
    executor = Executor(1, lambda: None)
    job = pb.Job(type="noop", payload=TEXT.encode(), lease_id="1.2.3")

    async def ours() -> None:
        for _ in range(JOBS):
            await executor.run(HANDLER, job, None)

    async def floor() -> None:
        for _ in range(JOBS):
            await _noop(**msgspec.json.decode(job.payload))

    return ours, floor


def _handler() -> tuple[Work, Work]:
    arguments = msgspec.json.decode(TEXT)

    async def ours() -> None:
        for _ in range(JOBS):
            await HANDLER.call(None, arguments)

    async def floor() -> None:
        for _ in range(JOBS):
            await _noop(**arguments)

    return ours, floor


async def _noop(id: int, pad: str) -> None:
    pass


HANDLER: Handler[..., None] = Handler("noop", _noop, QUEUE, Binding(_noop), "async", None, Retry())


def _client() -> tuple[Work, Work]:
    jobs = [NewJob("noop", PAYLOAD, queue=QUEUE)] * JOBS
    finished = specs_of(jobs)
    return (
        _plain(lambda: specs_of(jobs).SerializeToString()),
        _plain(lambda: ([msgspec.json.encode(PAYLOAD) for _ in range(JOBS)], finished.SerializeToString())),
    )


class _Wire:
    """A stream through the loopback with both ends in this process: it sends a message for each one that it is sent."""

    def __init__(self) -> None:
        self._message = _message(_batch())
        self._raw = self._message.SerializeToString()

    async def __aenter__(self) -> "_Wire":
        self._server = grpc.aio.server()
        port = self._server.add_insecure_port("127.0.0.1:0")
        calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Messages": grpc.stream_stream_rpc_method_handler(
                self._send_messages, None, pb.ServerMessage.SerializeToString
            ),
            "Bytes": grpc.stream_stream_rpc_method_handler(self._send_bytes),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Wire", calls),))
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        read = pb.ServerMessage.FromString
        self._messages: Any = self._channel.stream_stream("/bench.Wire/Messages", response_deserializer=read)()
        self._bytes: Any = self._channel.stream_stream("/bench.Wire/Bytes")()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
        await self._server.stop(None)

    async def messages(self) -> None:
        """Pass a message of `JOBS` jobs on, made bytes at one end and read at the other."""
        await self._messages.write(b"next")
        await self._messages.read()

    async def bytes(self) -> None:
        """Pass the bytes of such a message on."""
        await self._bytes.write(b"next")
        await self._bytes.read()

    async def _send_messages(self, _: Any, context: Any) -> None:
        while await context.read() == b"next":
            await context.write(self._message)

    async def _send_bytes(self, _: Any, context: Any) -> None:
        while await context.read() == b"next":
            await context.write(self._raw)
