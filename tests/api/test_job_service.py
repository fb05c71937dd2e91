"""JobService: what REST offers to producers and operators, over gRPC."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub, WorkerServiceStub

from tests.support.processes import RunningServer

NOBODY = "019ab3f0-7c1e-7000-8000-00000000ffff"


@pytest.fixture
def channel(shared_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared_server.grpc_address) as channel:
        yield channel


class Jobs:
    """JobService with the key in hand."""

    def __init__(self, channel: grpc.Channel, metadata: Any) -> None:
        self._stub: Any = JobServiceStub(channel)
        self._metadata = metadata

    def __getattr__(self, method: str) -> Any:
        return lambda request: getattr(self._stub, method)(request, metadata=self._metadata, timeout=20)


@pytest.fixture
def jobs(channel: grpc.Channel, shared_server: RunningServer) -> Jobs:
    return Jobs(channel, shared_server.metadata)


def _spec(queue: str, **fields: Any) -> pb.JobSpec:
    return pb.JobSpec(**{"type": "t", "payload": b'{"b":1,"a":2.50}', "queue": queue, **fields})


def _problem(error: Any) -> dict[str, Any]:
    problem: dict[str, Any] = json.loads(dict(error.trailing_metadata())["quorra-problem-bin"])
    return problem


def test_a_job_is_submitted_read_cancelled_and_listed(jobs: Jobs, queue_name: str) -> None:
    submitted = jobs.SubmitJob(pb.SubmitJobRequest(job=_spec(queue_name, tags=["x"]))).job
    found = jobs.GetJob(pb.GetJobRequest(id=submitted.id))
    cancelled = jobs.CancelJob(pb.CancelJobRequest(id=submitted.id, reason="enough"))
    listed = jobs.ListJobs(pb.ListJobsRequest(status="cancelled", queue=queue_name, tag="x")).jobs
    counts = [count for count in jobs.ListQueues(pb.ListQueuesRequest()).queues if count.queue == queue_name]

    assert ("pending", False) == (submitted.status, submitted.existing)
    assert (b'{"b":1,"a":2.50}', ["x"]) == (found.payload, list(found.tags))
    assert "cancelled" == cancelled.status
    assert [submitted.id] == [job.id for job in listed]
    assert [("cancelled", 1)] == [(count.status, count.count) for count in counts]


def test_a_repeated_key_gives_the_first_job_and_another_job_under_it_is_refused(jobs: Jobs, queue_name: str) -> None:
    first = jobs.SubmitJob(pb.SubmitJobRequest(job=_spec(queue_name), idempotency_key=queue_name)).job
    again = jobs.SubmitJob(pb.SubmitJobRequest(job=_spec(queue_name), idempotency_key=queue_name)).job

    with pytest.raises(grpc.RpcError) as caught:
        jobs.SubmitJob(pb.SubmitJobRequest(job=_spec(queue_name, type="other"), idempotency_key=queue_name))

    error: Any = caught.value
    assert (first.id, True) == (again.id, again.existing)
    assert (grpc.StatusCode.FAILED_PRECONDITION, "key_reused") == (error.code(), _problem(error)["code"])


def test_a_batch_is_all_or_nothing(jobs: Jobs, queue_name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        jobs.SubmitJobs(pb.SubmitJobsRequest(jobs=[_spec(queue_name), _spec(queue_name, type="")]))
    ids = [
        job.id
        for job in jobs.SubmitJobs(
            pb.SubmitJobsRequest(jobs=[_spec(queue_name, priority=number) for number in range(3)])
        ).jobs
    ]
    listed = jobs.ListJobs(pb.ListJobsRequest(queue=queue_name)).jobs

    assert "jobs[1].type" == _problem(caught.value)["field"]
    assert sorted(ids) == sorted(job.id for job in listed)
    assert [0, 1, 2] == [jobs.GetJob(pb.GetJobRequest(id=job_id)).priority for job_id in ids]


def test_a_batch_over_its_limit_has_the_same_code_as_over_rest(jobs: Jobs, queue_name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        jobs.SubmitJobs(pb.SubmitJobsRequest(jobs=[_spec(queue_name)] * 10_001))

    assert "payload_too_large" == _problem(caught.value)["code"]


def test_an_import_answers_batch_by_batch(jobs: Jobs, queue_name: str) -> None:
    batches = iter([pb.SubmitJobsRequest(jobs=[_spec(queue_name)] * size) for size in (2, 0, 3)])

    assert [2, 0, 3] == [len(answer.jobs) for answer in jobs.ImportJobs(batches)]


def test_pages_follow_each_other(jobs: Jobs, queue_name: str) -> None:
    jobs.SubmitJobs(pb.SubmitJobsRequest(jobs=[_spec(queue_name)] * 5))
    seen: list[str] = []
    token = ""
    while True:
        page = jobs.ListJobs(pb.ListJobsRequest(queue=queue_name, page_size=2, page_token=token))
        seen += [job.id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break

    assert (5, 5) == (len(seen), len(set(seen)))


def test_retry_runs_a_delayed_job_now(jobs: Jobs, queue_name: str) -> None:
    delayed = jobs.SubmitJob(pb.SubmitJobRequest(job=_spec(queue_name, delay_ms=3_600_000))).job

    hurried = jobs.RetryJob(pb.RetryJobRequest(id=delayed.id))

    assert hurried.run_at.ToDatetime() < delayed.run_at.ToDatetime()


@pytest.mark.parametrize(
    ("method", "request_message", "status", "code"),
    [
        ("GetJob", pb.GetJobRequest(id=NOBODY), grpc.StatusCode.NOT_FOUND, "job_not_found"),
        ("GetJob", pb.GetJobRequest(id="x"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("GetJob", pb.GetJobRequest(id=NOBODY, wait_ms=-1), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("CancelJob", pb.CancelJobRequest(id="\0"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("RetryJob", pb.RetryJobRequest(id=NOBODY), grpc.StatusCode.NOT_FOUND, "job_not_found"),
        ("ListJobs", pb.ListJobsRequest(status="lost"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("ListJobs", pb.ListJobsRequest(queue="\0"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("ListJobs", pb.ListJobsRequest(tag="\0"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("ListJobs", pb.ListJobsRequest(page_size=501), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("ListJobs", pb.ListJobsRequest(page_token="zz"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        ("SubmitJob", pb.SubmitJobRequest(), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
    ],
)
def test_bad_requests_have_a_status_a_code_and_a_sentence(
    jobs: Jobs, method: str, request_message: Any, status: grpc.StatusCode, code: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(jobs, method)(request_message)

    error: Any = caught.value
    assert (status, code) == (error.code(), _problem(error)["code"])
    assert error.details()


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\x0a\x04\x12\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_an_invalid_argument(
    channel: grpc.Channel, shared_server: RunningServer, raw: bytes
) -> None:
    method: Any = channel.unary_unary("/quorra.v1.JobService/SubmitJob")

    with pytest.raises(grpc.RpcError) as caught:
        method(raw, metadata=shared_server.metadata, timeout=10)

    error: Any = caught.value
    assert (grpc.StatusCode.INVALID_ARGUMENT, "malformed_request") == (error.code(), _problem(error)["code"])


def test_a_heartbeat_needs_names_that_can_be_kept(channel: grpc.Channel, shared_server: RunningServer) -> None:
    stub: Any = WorkerServiceStub(channel)

    with pytest.raises(grpc.RpcError) as caught:
        stub.Heartbeat(pb.HeartbeatRequest(worker_id="\0", boot_id="b"), metadata=shared_server.metadata)

    error: Any = caught.value
    assert (grpc.StatusCode.INVALID_ARGUMENT, "worker_id") == (error.code(), _problem(error)["field"])
