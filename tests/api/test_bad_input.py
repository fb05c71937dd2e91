"""Bad input: a 4xx that names the field and the remedy, nothing stored, never a 500; on REST and gRPC alike."""

import json
from typing import Any

import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub

from tests.support.processes import NO_TLS, RunningServer

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000

BODIES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{nope", "body"),
    "cut JSON": (b'{"type":"t","payload":{', "body"),
    "empty body": (b"", "type"),
    "a list": (b"[]", "body"),
    "missing type": (b'{"payload":{}}', "type"),
    "missing payload": (b'{"type":"t"}', "payload"),
    "type of a wrong type": (b'{"type":7,"payload":{}}', "type"),
    "empty type": (b'{"type":"","payload":{}}', "type"),
    "long type": (json.dumps({"type": "x" * 300, "payload": {}}).encode(), "type"),
    "payload not an object": (b'{"type":"t","payload":[1]}', "payload"),
    "payload null": (b'{"type":"t","payload":null}', "payload"),
    "payload text": (b'{"type":"t","payload":"x"}', "payload"),
    "unknown field": (b'{"type":"t","payload":{},"prioritty":1}', "prioritty"),
    "priority text": (b'{"type":"t","payload":{},"priority":"1"}', "priority"),
    "priority huge": (b'{"type":"t","payload":{},"priority":99999999999999999999999}', "priority"),
    "priority over int32": (b'{"type":"t","payload":{},"priority":2147483648}', "priority"),
    "retries negative": (b'{"type":"t","payload":{},"max_retries":-1}', "max_retries"),
    "retries huge": (b'{"type":"t","payload":{},"max_retries":1001}', "max_retries"),
    "delay negative": (b'{"type":"t","payload":{},"delay_seconds":-1}', "delay_seconds"),
    "delay over ten years": (b'{"type":"t","payload":{},"delay_seconds":400000000}', "delay_seconds"),
    "delay of 400 digits": (b'{"type":"t","payload":{},"delay_seconds":' + b"9" * 400 + b"}", "delay_seconds"),
    "delay and run_at": (b'{"type":"t","payload":{},"delay_seconds":1,"run_at":"2030-01-01T00:00:00Z"}', "run_at"),
    "run_at without offset": (b'{"type":"t","payload":{},"run_at":"2030-01-01T00:00:00"}', "run_at"),
    "run_at no time": (b'{"type":"t","payload":{},"run_at":"soon"}', "run_at"),
    "run_at far": (b'{"type":"t","payload":{},"run_at":"8999-01-01T00:00:00Z"}', "run_at"),
    "empty queue": (b'{"type":"t","payload":{},"queue":""}', "queue"),
    "long queue": (json.dumps({"type": "t", "payload": {}, "queue": "q" * 300}).encode(), "queue"),
    "queue with NUL": (b'{"type":"t","payload":{},"queue":"a\\u0000b"}', "queue"),
    "bad id": (b'{"type":"t","payload":{},"id":"42"}', "id"),
    "NaN": (b'{"type":"t","payload":{"n":NaN}}', "body"),
    "Infinity": (b'{"type":"t","payload":{"n":-Infinity}}', "body"),
    "NUL escaped": (b'{"type":"t","payload":{"s":"\\u0000"}}', "payload"),
    "NUL in a key": (b'{"type":"t","payload":{"\\u0000":1}}', "payload"),
    "lone surrogate": (b'{"type":"t","payload":{"s":"\\ud800"}}', "body"),
    "lone low surrogate": (b'{"type":"t","payload":{"s":"x\\udc00y"}}', "body"),
    "raw surrogate": (b'{"type":"t","payload":{"s":"\xed\xa0\x80"}}', "payload"),
    "invalid UTF-8": (b'{"type":"t","payload":{"s":"\xff\xfe"}}', "payload"),
    "deep": (b'{"type":"t","payload":' + DEEP + b"}", "body"),
    "a little too deep": (b'{"type":"t","payload":{"a":' + b"[" * 64 + b"]" * 64 + b"}}", "payload"),
    "too many tags": (json.dumps({"type": "t", "payload": {}, "tags": ["x"] * 33}).encode(), "tags"),
    "backoff of no kind": (b'{"type":"t","payload":{},"backoff":{"kind":"random"}}', "backoff.kind"),
    "backoff jitter": (b'{"type":"t","payload":{},"backoff":{"jitter":2}}', "backoff.jitter"),
    "timeout negative": (b'{"type":"t","payload":{},"timeout_seconds":-1}', "timeout_seconds"),
    "2 MiB payload": (b'{"type":"t","payload":{"s":"' + b"x" * (2 * 1024 * 1024) + b'"}}', "body"),
    "payload a byte too large": (b'{"type":"t","payload":{"s":"' + b"x" * (1024 * 1024 - 7) + b'"}}', "payload"),
}


def _total(api: httpx.Client) -> int:
    return sum(entry["count"] for entry in api.get("/v1/queues").json()["queues"])


@pytest.mark.parametrize("name", BODIES)
def test_rest_refuses_a_bad_body_names_the_field_and_stores_nothing(api: httpx.Client, name: str) -> None:
    body, field = BODIES[name]
    before = _total(api)

    reply = api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    problem = reply.json()
    assert 400 <= reply.status_code < 500, reply.text
    assert "application/problem+json" == reply.headers["content-type"]
    assert {"type", "title", "status", "code", "detail"} <= problem.keys()
    assert reply.status_code == problem["status"]
    fields = [problem.get("field"), *(entry["field"] for entry in problem.get("errors", []))]
    assert field in fields, problem
    assert before == _total(api)


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_job_in_a_batch_refuses_the_whole_batch(api: httpx.Client, name: str) -> None:
    body, _ = BODIES[name]
    before = _total(api)

    batch = b'{"jobs":[{"type":"t","payload":{}},' + body + b"]}"
    reply = api.post("/v1/jobs/batch", content=batch, headers={"Content-Type": "application/json"})

    assert 400 <= reply.status_code < 500, reply.text
    assert before == _total(api)


def test_all_problems_of_a_job_are_named_at_once(api: httpx.Client) -> None:
    reply = api.post("/v1/jobs", json={"type": "", "payload": [], "max_retries": -1, "queue": ""})

    assert {"type", "payload", "max_retries", "queue"} == {entry["field"] for entry in reply.json()["errors"]}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/jobs/not-a-uuid", None),
        ("GET", "/v1/jobs/{00000000-0000-7000-8000-000000000000}", None),
        ("GET", "/v1/jobs?limit=0", None),
        ("GET", "/v1/jobs?limit=501", None),
        ("GET", "/v1/jobs?limit=many", None),
        ("GET", "/v1/jobs?cursor=zzz", None),
        ("GET", "/v1/jobs?status=lost", None),
        ("GET", "/v1/jobs?statu=dead", None),
        ("GET", "/v1/jobs?payload={bad", None),
        ("GET", "/v1/jobs?queue=%00", None),
        ("GET", "/v1/jobs?queue=a&queue=b", None),
        ("GET", "/v1/jobs?limit=null", None),
        ("GET", "/v1/jobs?limit=5.0", None),
        ("GET", "/v1/jobs?status=null", None),
        ("GET", "/v1/jobs?created_after=null", None),
        ("GET", "/v1/jobs?created_before=null", None),
        ("GET", "/v1/jobs?created_after=1700000000", None),
        ("GET", "/v1/jobs?created_after=yesterday", None),
        ("GET", "/v1/jobs?created_after=0001-01-01T00:00:00%2B14:00", None),
        ("GET", "/v1/jobs?queue=", None),
        ("GET", "/v1/jobs?queue=%ff", None),
        ("GET", "/v1/jobs?cursor=", None),
        ("GET", '/v1/jobs?payload={"a":1e200000}', None),
        ("GET", f'/v1/jobs?payload={{"a":1.{"1" * 6_400}e-9999}}', None),
        ("GET", "/v1/dead?queue=%00", None),
        ("GET", "/v1/dead?type=%00", None),
        ("GET", "/v1/queues/%ff", None),
        ("GET", "/v1/queues?x=1", None),
        ("GET", "/v1/jobs/00000000-0000-7000-8000-000000000000?wait=1h", None),
        ("GET", "/v1/jobs/00000000-0000-7000-8000-000000000000/history?limit=0", None),
        ("GET", "/v1/jobs/00000000-0000-7000-8000-000000000000/history?limit=501", None),
        ("GET", "/v1/jobs/00000000-0000-7000-8000-000000000000/history?cursor=zzz", None),
        ("POST", "/v1/jobs/cancel", {}),
        ("POST", "/v1/jobs/cancel", {"filter": {"queue": "\x00"}}),
        ("POST", "/v1/jobs/retry", {"filter": {"tag": "\x00"}}),
        ("POST", "/v1/jobs/cancel", {"filter": {}, "reason": "a\0b"}),
        ("POST", "/v1/dead/replay", {"ids": []}),
        ("POST", "/v1/dead/replay", {"ids": ["x"]}),
        ("DELETE", "/v1/dead", {}),
        ("DELETE", "/v1/dead", {"before": "0001-01-01T00:00:00+14:00"}),
        ("PATCH", "/v1/jobs/00000000-0000-7000-8000-000000000000", {}),
        ("PATCH", "/v1/jobs/00000000-0000-7000-8000-000000000000", {"priority": 2**40}),
        ("PATCH", "/v1/jobs/00000000-0000-7000-8000-000000000000", {"delay_seconds": 10**400}),
        ("PUT", "/v1/queues/q", {"backoff": {"base_seconds": -1}}),
        ("PUT", "/v1/queues/q", {"backoff": {"kind": 1}}),
        ("PUT", "/v1/queues/q", {}),
        ("POST", "/v1/jobs/00000000-0000-7000-8000-000000000000/cancel", {"reason": "a\0b"}),
        ("POST", "/v1/jobs/00000000-0000-7000-8000-000000000000/cancel", {"reason": "x" * 1_001}),
        ("POST", "/v1/jobs/00000000-0000-7000-8000-000000000000/retry", {"reason": "a\0b"}),
    ],
)
def test_bad_paths_queries_and_bodies_are_422(api: httpx.Client, method: str, path: str, body: Any) -> None:
    reply = api.request(method, path, json=body)

    assert 422 == reply.status_code, reply.text
    assert reply.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/jobs/00000000-0000-7000-8000-000000000000", 404),
        ("POST", "/v1/jobs/00000000-0000-7000-8000-000000000000/cancel", 404),
        ("GET", "/v1/queues/never-used", 404),
        ("DELETE", "/v1/jobs", 405),
        ("PUT", "/v1/workers", 405),
    ],
)
def test_what_does_not_exist_is_404_and_a_wrong_method_405(
    api: httpx.Client, method: str, path: str, status: int
) -> None:
    reply = api.request(method, path)

    assert status == reply.status_code
    assert "application/problem+json" == reply.headers["content-type"]


def test_a_body_that_says_it_is_something_else_than_json_is_refused(api: httpx.Client) -> None:
    reply = api.post("/v1/jobs", content=b"<job/>", headers={"Content-Type": "text/xml"})

    assert (422, "Content-Type") == (reply.status_code, reply.json()["field"])


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
def test_a_missing_or_wrong_key_is_401_with_problem_details(
    shared_server: RunningServer, headers: dict[str, str]
) -> None:
    reply = httpx.get(f"{shared_server.http_url}/v1/queues", headers=headers, verify=NO_TLS)

    assert (401, "unauthenticated") == (reply.status_code, reply.json()["code"])
    assert "application/problem+json" == reply.headers["content-type"]


SPECS: dict[str, pb.JobSpec] = {
    "type": pb.JobSpec(type="", payload=b"{}"),
    "payload": pb.JobSpec(type="t", payload=b"[1]"),
    "payload ": pb.JobSpec(type="t", payload=b'{"s":"\\u0000"}'),
    "payload  ": pb.JobSpec(type="t", payload=b'{"s":"\\ud800"}'),
    "payload   ": pb.JobSpec(type="t", payload=b'{"s":"\xff"}'),
    "payload    ": pb.JobSpec(type="t", payload=DEEP),
    "payload     ": pb.JobSpec(type="t", payload=b'{"n":NaN}'),
    "payload      ": pb.JobSpec(type="t", payload=b'{"s":"' + b"x" * (2 * 1024 * 1024) + b'"}'),
    "queue": pb.JobSpec(type="t", payload=b"{}", queue="q" * 300),
    "max_retries": pb.JobSpec(type="t", payload=b"{}", max_retries=-1),
    "delay_ms": pb.JobSpec(type="t", payload=b"{}", delay_ms=-1),
    "id": pb.JobSpec(type="t", payload=b"{}", id="42"),
}


@pytest.mark.parametrize("field", SPECS)
def test_grpc_refuses_the_same(shared_server: RunningServer, api: httpx.Client, field: str) -> None:
    before = _total(api)

    with grpc.insecure_channel(shared_server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        JobServiceStub(channel).SubmitJob(pb.SubmitJobRequest(job=SPECS[field]), metadata=shared_server.metadata)

    error: Any = caught.value
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
    problem = json.loads(dict(error.trailing_metadata())["quorra-problem-bin"])
    assert (problem["field"] or "").endswith(field.strip())
    assert before == _total(api)


@pytest.mark.parametrize("metadata", [(), (("x-api-key", "wrong"),), (("authorization", "Bearer wrong"),)])
def test_grpc_without_a_key_is_unauthenticated(
    shared_server: RunningServer, metadata: tuple[tuple[str, str], ...]
) -> None:
    with grpc.insecure_channel(shared_server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        JobServiceStub(channel).ListQueues(pb.ListQueuesRequest(), metadata=metadata)

    error: Any = caught.value
    assert grpc.StatusCode.UNAUTHENTICATED == error.code()


def test_after_all_that_the_server_is_well(api: httpx.Client, shared_server: RunningServer) -> None:
    assert 200 == api.get("/readyz").status_code
    assert "incident" not in shared_server.log
