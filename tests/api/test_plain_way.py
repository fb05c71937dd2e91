"""The plain way: three calls are the whole protocol for a worker in any language."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.processes import RunningServer
from tests.support.waiting import eventually_sync


@pytest.fixture
def worker(shared_server: RunningServer) -> Iterator["PlainWorker"]:
    with grpc.insecure_channel(shared_server.grpc_address) as channel:
        yield PlainWorker(WorkerServiceStub(channel), shared_server.metadata)


class PlainWorker:
    """A worker in thirty lines."""

    def __init__(self, stub: Any, metadata: Any) -> None:
        self.stub, self.metadata = stub, metadata

    def lease(self, queue: str, **wishes: Any) -> list[pb.Job]:
        request = pb.LeaseRequest(queue=queue, **{"worker_id": "plain-1", "max_jobs": 10, **wishes})
        return list(self.stub.LeaseJobs(request, metadata=self.metadata))

    def ack(self, job: pb.Job, **fields: Any) -> pb.JobAckResponse:
        request = pb.JobAck(job_id=job.id, lease_id=job.lease_id, worker_id="plain-1", success=True, **fields)
        answer: pb.JobAckResponse = self.stub.AckJob(request, metadata=self.metadata)
        return answer

    def nack(self, job: pb.Job, error: str) -> pb.JobAckResponse:
        request = pb.JobAck(job_id=job.id, lease_id=job.lease_id, worker_id="plain-1", error_message=error)
        answer: pb.JobAckResponse = self.stub.NackJob(request, metadata=self.metadata)
        return answer


def _submit(api: httpx.Client, queue: str, **fields: Any) -> str:
    return str(api.post("/v1/jobs", json={"type": "t", "payload": {"n": 1}, "queue": queue, **fields}).json()["id"])


def _stale_acks(server: RunningServer) -> float:
    found = re.search(r"^quorra_stale_acks_total (\S+)$", httpx.get(f"{server.http_url}/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_a_plain_worker_is_listed_and_written_down_once_in_a_while(
    api: httpx.Client, worker: PlainWorker, queue_name: str
) -> None:
    def listed() -> list[dict[str, Any]]:
        live = api.get("/v1/workers").json()["workers"]
        return [entry for entry in live if entry["worker_id"] == f"plain-{queue_name}"]

    worker.lease(queue_name, worker_id=f"plain-{queue_name}", types=["t"])
    (first,) = eventually_sync(listed, "it is listed")
    for _ in range(20):
        worker.lease(queue_name, worker_id=f"plain-{queue_name}")

    assert ([queue_name], ["t"], "LeaseJobs") == (first["queues"], first["types"], first["version"])
    assert [first] == listed()


def test_a_job_is_leased_run_and_acked(api: httpx.Client, worker: PlainWorker, queue_name: str) -> None:
    job_id = _submit(api, queue_name)

    (job,) = worker.lease(queue_name)
    running = api.get(f"/v1/jobs/{job_id}").json()
    counts = api.get(f"/v1/queues/{queue_name}").json()["counts"]
    answer = worker.ack(job, result=b'{"ok":true}')

    assert (job_id, b'{"n":1}', 0) == (job.id, job.payload.replace(b" ", b""), job.attempts)
    assert ("processing", 1, "plain-1") == (running["status"], running["attempts"], running["leased_by"])
    assert (1, 0) == (counts["processing"], counts["leased"])
    assert answer.acknowledged
    done = api.get(f"/v1/jobs/{job_id}").json()
    assert ("succeeded", 1, {"ok": True}) == (done["status"], done["attempts"], done["result"])


def test_a_nacked_job_backs_off_and_a_dead_one_shows_its_errors(
    api: httpx.Client, worker: PlainWorker, queue_name: str
) -> None:
    job_id = _submit(api, queue_name, max_retries=1)

    worker.nack(worker.lease(queue_name)[0], "first")
    backing_off = api.get(f"/v1/jobs/{job_id}").json()
    api.post(f"/v1/jobs/{job_id}/retry")
    worker.nack(worker.lease(queue_name)[0], "second")

    dead = api.get(f"/v1/jobs/{job_id}").json()
    assert ("failed", "first") == (backing_off["status"], backing_off["last_error"])
    assert ("dead", ["first", "second"]) == (dead["status"], [error["error"] for error in dead["errors"]])
    assert [job_id] == [job["id"] for job in api.get(f"/v1/dead?queue={queue_name}").json()["jobs"]]


def test_a_dead_job_is_replayed_with_another_payload(api: httpx.Client, worker: PlainWorker, queue_name: str) -> None:
    job_id = _submit(api, queue_name, max_retries=0)
    worker.nack(worker.lease(queue_name)[0], "no")

    replayed = api.post("/v1/dead/replay", json={"ids": [job_id], "payload": {"n": 2}}).json()

    (job,) = worker.lease(queue_name)
    assert (1, job_id, 2, b'{"n":2}') == (replayed["replayed"], job.id, job.generation, job.payload)


def test_a_stale_ack_is_refused_changes_nothing_and_is_counted(
    api: httpx.Client, worker: PlainWorker, queue_name: str, shared_server: RunningServer
) -> None:
    job_id = _submit(api, queue_name)
    (stale,) = worker.lease(queue_name)
    api.post(f"/v1/jobs/{job_id}/cancel")
    before, counted = api.get(f"/v1/jobs/{job_id}").json(), _stale_acks(shared_server)

    answer = worker.ack(stale)

    assert not answer.acknowledged
    assert answer.message.startswith("lease_lost")
    assert before == api.get(f"/v1/jobs/{job_id}").json()
    assert counted + 1 == _stale_acks(shared_server)


def test_a_repeated_ack_gets_the_same_answer(api: httpx.Client, worker: PlainWorker, queue_name: str) -> None:
    _submit(api, queue_name)
    (job,) = worker.lease(queue_name)

    answers = [worker.ack(job), worker.ack(job)]
    contradiction = worker.nack(job, "no, it failed")

    assert [True, True] == [answer.acknowledged for answer in answers]
    assert not contradiction.acknowledged
    assert "already_settled" in contradiction.message


def test_waiting_for_work_ends_when_work_comes(api: httpx.Client, worker: PlainWorker, queue_name: str) -> None:
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        waiting = thread.submit(worker.lease, queue_name, wait_seconds=20)
        while not api.get("/readyz").is_success:
            pass
        job_id = _submit(api, queue_name)
        jobs = waiting.result(20)

    assert [job_id] == [job.id for job in jobs]
    assert time.monotonic() - began < 10


def test_jobs_that_a_worker_never_got_come_back_uncharged_when_it_goes_away(
    api: httpx.Client, worker: PlainWorker, queue_name: str
) -> None:
    """Delivery counts as the start: what was never delivered would be charged when the lease ends."""
    jobs = [{"type": "t", "queue": queue_name, "payload": {"text": "x" * 100_000}}] * 100
    assert api.post("/v1/jobs/batch", json={"jobs": jobs}).is_success
    request = pb.LeaseRequest(queue=queue_name, worker_id="plain-1", max_jobs=100, lease_ttl_seconds=300)
    call = worker.stub.LeaseJobs(request, metadata=worker.metadata)
    next(call)

    call.cancel()
    counts = f"/v1/queues/{queue_name}"
    eventually_sync(lambda: api.get(counts).json()["counts"]["pending"] > 50, "the unsent ones wait again")

    waiting = api.get("/v1/jobs", params={"queue": queue_name, "status": "pending", "limit": 100}).json()["jobs"]
    assert {0} == {job["attempts"] for job in waiting}


def test_queues_are_asked_in_order_and_types_are_respected(
    api: httpx.Client, worker: PlainWorker, queue_name: str
) -> None:
    second, first = f"{queue_name}-b", f"{queue_name}-a"
    late, early = _submit(api, second), _submit(api, first)
    _submit(api, first, type="other")

    jobs = worker.lease("", queues=[first, second], types=["t"])

    assert [early, late] == [job.id for job in jobs]


@pytest.mark.parametrize(
    ("field", "wishes"),
    [
        ("worker_id", {"worker_id": ""}),
        ("max_jobs", {"max_jobs": 10_001}),
        ("max_jobs", {"max_jobs": -1}),
        ("lease_ttl_seconds", {"lease_ttl_seconds": 50_000}),
        ("wait_seconds", {"wait_seconds": 61}),
        ("queue", {"queue": "x" * 300}),
    ],
)
def test_a_lease_request_out_of_bounds_is_refused(
    shared_server: RunningServer, worker: PlainWorker, field: str, wishes: dict[str, Any]
) -> None:
    request = pb.LeaseRequest(**{"worker_id": "w", **wishes})

    with pytest.raises(grpc.RpcError) as caught:
        list(worker.stub.LeaseJobs(request, metadata=worker.metadata))

    error: Any = caught.value
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
    assert field in error.details()


@pytest.mark.parametrize("lease_id", ["", "nonsense", "1.2.3.4", "zz.zz.zz.zz"])
def test_a_lease_id_that_nobody_made_is_refused(worker: PlainWorker, lease_id: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        worker.stub.AckJob(pb.JobAck(lease_id=lease_id), metadata=worker.metadata)

    error: Any = caught.value
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()


def test_health_and_reflection_answer_without_a_key(shared_server: RunningServer) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with grpc.insecure_channel(shared_server.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        services = next(iter(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)))

    assert health_pb2.HealthCheckResponse.SERVING == health.status
    names = {service.name for service in services.list_services_response.service}
    assert {"quorra.v1.WorkerService", "quorra.v1.JobService", "grpc.health.v1.Health"} <= names
