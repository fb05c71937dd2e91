"""Bad input over gRPC: refused as over REST, by every call that takes jobs, with the field; nothing stored."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import pytest
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


def test_after_all_that_the_server_is_well(api: httpx.Client, shared_server: RunningServer) -> None:
    assert 200 == api.get("/readyz").status_code
    assert "incident" not in shared_server.log


def _total(api: httpx.Client) -> int:
    return sum(entry["count"] for entry in api.get("/v1/queues").json()["queues"])
