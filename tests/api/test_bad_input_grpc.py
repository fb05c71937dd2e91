"""Bad input over gRPC: refused as over REST, by every call that takes jobs, with the field; nothing stored."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub

from tests.support.processes import RunningServer


def _at(year: int) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None))
    return time


def _spec(**fields: Any) -> pb.JobSpec:
    return pb.JobSpec(**{"type": "t", "payload": b"{}", **fields})


def _payload(text: bytes) -> pb.JobSpec:
    return _spec(payload=text)


BAD: dict[str, tuple[pb.JobSpec, str]] = {
    "missing type": (_spec(type=""), "type"),
    "long type": (_spec(type="x" * 300), "type"),
    "type with NUL": (_spec(type="a\0b"), "type"),
    "missing payload": (_payload(b""), "payload"),
    "payload null": (_payload(b"null"), "payload"),
    "payload text": (_payload(b'"x"'), "payload"),
    "payload a list": (_payload(b"[1]"), "payload"),
    "payload no JSON": (_payload(b"{nope"), "payload"),
    "payload with more behind it": (_payload(b"{} {}"), "payload"),
    "NaN": (_payload(b'{"n":NaN}'), "payload"),
    "Infinity": (_payload(b'{"n":-Infinity}'), "payload"),
    "NUL escaped": (_payload(b'{"s":"\\u0000"}'), "payload"),
    "NUL in a key": (_payload(b'{"\\u0000":1}'), "payload"),
    "lone surrogate": (_payload(b'{"s":"\\ud800"}'), "payload"),
    "lone low surrogate": (_payload(b'{"s":"x\\udc00y"}'), "payload"),
    "raw surrogate": (_payload(b'{"s":"\xed\xa0\x80"}'), "payload"),
    "invalid UTF-8": (_payload(b'{"s":"\xff\xfe"}'), "payload"),
    "depth 100,000": (_payload(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "payload"),
    "a little too deep": (_payload(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}"), "payload"),
    "2 MiB payload": (_payload(b'{"s":"' + b"x" * (2 * 1024 * 1024) + b'"}'), "payload"),
    "long queue": (_spec(queue="q" * 300), "queue"),
    "queue with NUL": (_spec(queue="a\0b"), "queue"),
    "retries negative": (_spec(max_retries=-1), "max_retries"),
    "retries huge": (_spec(max_retries=2**31 - 1), "max_retries"),
    "delay negative": (_spec(delay_ms=-1), "delay_ms"),
    "delay huge": (_spec(delay_ms=2**62), "delay_ms"),
    "delay and run_at": (_spec(delay_ms=1, run_at=_at(2030)), "run_at"),
    "run_at far": (_spec(run_at=_at(8999)), "run_at"),
    "run_at no time": (_spec(run_at=Timestamp(seconds=2**62)), "run_at"),
    "timeout negative": (_spec(timeout_ms=-1), "timeout_ms"),
    "bad id": (_spec(id="42"), "id"),
    "too many tags": (_spec(tags=["x"] * 33), "tags"),
    "backoff of no kind": (_spec(backoff=pb.Backoff(kind="random")), "backoff.kind"),
    "backoff jitter": (_spec(backoff=pb.Backoff(kind="fixed", base_seconds=1, jitter=2)), "backoff.jitter"),
    "backoff not a number": (
        _spec(backoff=pb.Backoff(kind="fixed", base_seconds=float("nan"))),
        "backoff.base_seconds",
    ),
}
CALLS: dict[str, Callable[[JobServiceStub, pb.JobSpec, Any], Any]] = {
    "SubmitJob": lambda stub, spec, key: stub.SubmitJob(pb.SubmitJobRequest(job=spec), metadata=key),
    "SubmitJobs": lambda stub, spec, key: stub.SubmitJobs(pb.SubmitJobsRequest(jobs=[_spec(), spec]), metadata=key),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_job_is_an_invalid_argument_with_its_field_and_nothing_is_stored(
    shared_server: RunningServer, api: httpx.Client, name: str, call: str
) -> None:
    spec, field = BAD[name]
    before = _total(api)

    with grpc.insecure_channel(shared_server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        CALLS[call](JobServiceStub(channel), spec, shared_server.metadata)

    error: Any = caught.value
    problem = json.loads(dict(error.trailing_metadata())["quorra-problem-bin"])
    fields = [problem.get("field"), *(entry["field"] for entry in problem.get("errors") or [])]
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code(), error.details()
    assert any((found or "").endswith(field) for found in fields), problem
    assert error.details()
    assert before == _total(api)


JOB = "00000000-0000-7000-8000-000000000000"
LEASE = f"1.{JOB.replace('-', '')}.1.{JOB.replace('-', '')}"
UNKNOWN = b"\x9a\x06\x03abc"  # field 99, a text
HELLO = pb.WorkerMessage(hello=pb.Hello(worker_id="w", boot_id="b"))

REQUESTS: dict[str, tuple[str, Message, str]] = {
    **{
        f"{call} of {what}": (f"JobService/{call}", request(id=bad), "id")
        for call, request in (
            ("GetJob", pb.GetJobRequest),
            ("CancelJob", pb.CancelJobRequest),
            ("RetryJob", pb.RetryJobRequest),
        )
        for what, bad in (
            ("no id", ""),
            ("a number", "42"),
            ("braces", f"{{{JOB}}}"),
            ("an id without hyphens", JOB.replace("-", "")),
            ("NUL", "\0"),
            ("300 characters", "x" * 300),
        )
    },
    "wait negative": ("JobService/GetJob", pb.GetJobRequest(id=JOB, wait_ms=-1), "wait_ms"),
    "wait huge": ("JobService/GetJob", pb.GetJobRequest(id=JOB, wait_ms=2**31 - 1), "wait_ms"),
    "cancel for a NUL": ("JobService/CancelJob", pb.CancelJobRequest(id=JOB, reason="a\0b"), "reason"),
    "cancel for a long reason": ("JobService/CancelJob", pb.CancelJobRequest(id=JOB, reason="x" * 1_001), "reason"),
    "list of no status": ("JobService/ListJobs", pb.ListJobsRequest(status="lost"), "status"),
    "list of a long queue": ("JobService/ListJobs", pb.ListJobsRequest(queue="q" * 300), "queue"),
    "list of a negative page": ("JobService/ListJobs", pb.ListJobsRequest(page_size=-1), "page_size"),
    "list of a huge page": ("JobService/ListJobs", pb.ListJobsRequest(page_size=501), "page_size"),
    "list by a far number": ("JobService/ListJobs", pb.ListJobsRequest(payload=b'{"a":1e200000}'), "payload"),
    "list by a fine number": (
        "JobService/ListJobs",
        pb.ListJobsRequest(payload=b'{"a":1.' + b"1" * 6_400 + b"e-9999}"),
        "payload",
    ),
    "list by a long number": (
        "JobService/ListJobs",
        pb.ListJobsRequest(payload=b'{"a":' + b"1" * 200_000 + b"}"),
        "payload",
    ),
    "list at no page": ("JobService/ListJobs", pb.ListJobsRequest(page_token="zzz"), "page_token"),
    "lease by nobody": ("WorkerService/LeaseJobs", pb.LeaseRequest(), "worker_id"),
    "lease by a long name": ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w" * 300), "worker_id"),
    "lease of a long queue": ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w", queue="q" * 300), "queue"),
    "lease of a queue with NUL": ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w", queue="a\0b"), "queue"),
    "lease of an empty queue": ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w", queues=[""]), "queue"),
    "lease of an empty type": ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w", types=[""]), "types"),
    "lease of -1 jobs": ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w", max_jobs=-1), "max_jobs"),
    "lease of too many jobs": ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w", max_jobs=10_001), "max_jobs"),
    "lease for -1 s": (
        "WorkerService/LeaseJobs",
        pb.LeaseRequest(worker_id="w", lease_ttl_seconds=-1),
        "lease_ttl_seconds",
    ),
    "lease for a year": (
        "WorkerService/LeaseJobs",
        pb.LeaseRequest(worker_id="w", lease_ttl_seconds=31_536_000),
        "lease_ttl_seconds",
    ),
    "lease that waits an hour": (
        "WorkerService/LeaseJobs",
        pb.LeaseRequest(worker_id="w", wait_seconds=3_600),
        "wait_seconds",
    ),
    "ack of no lease": ("WorkerService/AckJob", pb.JobAck(), "lease_id"),
    "ack of a bad lease": ("WorkerService/AckJob", pb.JobAck(lease_id="9" * 10_000), "lease_id"),
    "ack of another job": ("WorkerService/AckJob", pb.JobAck(lease_id=LEASE, job_id="42"), "job_id"),
    "result no JSON": ("WorkerService/AckJob", pb.JobAck(lease_id=LEASE, result=b"{nope"), "result"),
    "result NaN": ("WorkerService/AckJob", pb.JobAck(lease_id=LEASE, result=b"NaN"), "result"),
    "result not UTF-8": ("WorkerService/AckJob", pb.JobAck(lease_id=LEASE, result=b'"\xff"'), "result"),
    "result with NUL": ("WorkerService/AckJob", pb.JobAck(lease_id=LEASE, result=b'"\\u0000"'), "result"),
    "result with half a pair": ("WorkerService/AckJob", pb.JobAck(lease_id=LEASE, result=b'"\\ud800"'), "result"),
    "result deep": (
        "WorkerService/AckJob",
        pb.JobAck(lease_id=LEASE, result=b"[" * 100_000 + b"]" * 100_000),
        "result",
    ),
    "result too large": (
        "WorkerService/AckJob",
        pb.JobAck(lease_id=LEASE, result=b'"' + b"x" * 300_000 + b'"'),
        "result",
    ),
    "nack of no lease": ("WorkerService/NackJob", pb.JobAck(), "lease_id"),
    "nack into the past": ("WorkerService/NackJob", pb.JobAck(lease_id=LEASE, retry_after_ms=-1), "retry_after_ms"),
    "heartbeat of nobody": ("WorkerService/Heartbeat", pb.HeartbeatRequest(boot_id="b"), "worker_id"),
    "heartbeat of no process": ("WorkerService/Heartbeat", pb.HeartbeatRequest(worker_id="w"), "boot_id"),
    "heartbeat of a bad lease": (
        "WorkerService/Heartbeat",
        pb.HeartbeatRequest(worker_id="w", boot_id="b", lease_ids=["x"]),
        "lease_id",
    ),
    "work without hello": ("WorkerService/Work", pb.WorkerMessage(credit=pb.Credit(granted_total=1)), "hello"),
    "work with an empty message": ("WorkerService/Work", pb.WorkerMessage(), "hello"),
    "work by nobody": ("WorkerService/Work", pb.WorkerMessage(hello=pb.Hello(boot_id="b")), "worker_id"),
    "work on a long queue": (
        "WorkerService/Work",
        pb.WorkerMessage(hello=pb.Hello(worker_id="w", boot_id="b", queues=[pb.QueueSubscription(name="q" * 300)])),
        "queues",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_request_is_an_invalid_argument_with_its_field(shared_server: RunningServer, name: str) -> None:
    method, request, field = REQUESTS[name]

    problem = _refusal(shared_server, method, request.SerializeToString())

    assert field == problem["field"]
    assert problem["detail"]


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("JobService/SubmitJob", pb.SubmitJobRequest(job=_spec()), "99"),
        ("JobService/SubmitJobs", pb.SubmitJobsRequest(jobs=[_spec()]), "99"),
        ("JobService/GetJob", pb.GetJobRequest(id=JOB), "99"),
        ("JobService/ListJobs", pb.ListJobsRequest(), "99"),
        ("JobService/CancelJob", pb.CancelJobRequest(id=JOB), "99"),
        ("JobService/RetryJob", pb.RetryJobRequest(id=JOB), "99"),
        ("WorkerService/LeaseJobs", pb.LeaseRequest(worker_id="w"), "99"),
        ("WorkerService/AckJob", pb.JobAck(lease_id=LEASE), "99"),
        ("WorkerService/NackJob", pb.JobAck(lease_id=LEASE), "99"),
    ],
)
def test_an_unknown_field_is_refused_by_its_number(
    shared_server: RunningServer, api: httpx.Client, method: str, request_: Message, field: str
) -> None:
    before = _total(api)

    problem = _refusal(shared_server, method, request_.SerializeToString() + UNKNOWN)

    assert field == problem["field"]
    assert before == _total(api)


@pytest.mark.parametrize("inside", ["job", "back-off"])
def test_an_unknown_field_inside_a_job_is_refused_too(
    shared_server: RunningServer, api: httpx.Client, inside: str
) -> None:
    backoff = pb.Backoff.FromString(UNKNOWN)
    spec = (
        _spec(backoff=backoff) if inside == "back-off" else pb.JobSpec.FromString(_spec().SerializeToString() + UNKNOWN)
    )
    before = _total(api)

    one = _refusal(shared_server, "JobService/SubmitJob", pb.SubmitJobRequest(job=spec).SerializeToString())
    many = _refusal(
        shared_server, "JobService/SubmitJobs", pb.SubmitJobsRequest(jobs=[_spec(), spec]).SerializeToString()
    )

    path = "backoff.99" if inside == "back-off" else "99"
    assert (f"job.{path}", f"jobs[1].{path}") == (one["field"], many["field"])
    assert before == _total(api)


@pytest.mark.parametrize(
    "raw",
    [b"\xff\xff\xff", b"\x0a\x05\x12\x01\xff\x1a\x00", b"\x0a\x02\x28"],
    ids=["no protobuf", "type not UTF-8", "cut"],
)
def test_bytes_that_are_no_message_are_an_invalid_argument(shared_server: RunningServer, raw: bytes) -> None:
    assert "malformed_request" == _refusal(shared_server, "JobService/SubmitJob", raw)["code"]


def test_a_worker_that_knows_more_than_the_server_is_taken(shared_server: RunningServer) -> None:
    """While servers are upgraded, workers may be newer: what they say beyond is passed by, and their leases live on."""
    beat = pb.HeartbeatRequest(worker_id="w", boot_id="b").SerializeToString() + UNKNOWN
    with grpc.insecure_channel(shared_server.grpc_address) as channel:
        work = _bytes_call(channel, "WorkerService/Work")
        heartbeat = _bytes_call(channel, "WorkerService/Heartbeat")

        first = next(iter(work(iter([HELLO.SerializeToString() + UNKNOWN]), metadata=shared_server.metadata)))

        assert "welcome" == pb.ServerMessage.FromString(first).WhichOneof("message")
        assert list(heartbeat(iter([beat]), metadata=shared_server.metadata))


def _bytes_call(channel: grpc.Channel, method: str) -> "grpc.StreamStreamMultiCallable[bytes, bytes]":
    return channel.stream_stream(f"/quorra.v1.{method}", bytes, bytes)


def _refusal(server: RunningServer, method: str, raw: bytes) -> dict[str, Any]:
    """Send the bytes of a request, and return the problem with which it is refused."""
    with grpc.insecure_channel(server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        # One message is one message, whether the call takes one or a stream of them.
        list(_bytes_call(channel, method)(iter([raw]), metadata=server.metadata, timeout=20))
    error: Any = caught.value
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code(), error.details()
    problem: dict[str, Any] = json.loads(dict(error.trailing_metadata())["quorra-problem-bin"])
    return problem


def test_after_all_that_the_server_is_well(api: httpx.Client, shared_server: RunningServer) -> None:
    assert 200 == api.get("/readyz").status_code
    assert "incident" not in shared_server.log


def _total(api: httpx.Client) -> int:
    return sum(entry["count"] for entry in api.get("/v1/queues").json()["queues"])
