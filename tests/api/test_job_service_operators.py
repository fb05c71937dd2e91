"""JobService for operators: all that REST offers them, over gRPC."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub, WorkerServiceStub

from tests.support.processes import RunningServer
from tests.support.waiting import eventually_sync

NOBODY = "019ab3f0-7c1e-7000-8000-00000000ffff"
SOON = Timestamp(seconds=2_000_000_000)


class Stub:
    """A service with the key in hand."""

    def __init__(self, stub: Any, metadata: Any) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, method: str) -> Any:
        return lambda request: getattr(self._stub, method)(request, metadata=self._metadata, timeout=30)


@pytest.fixture
def channel(shared_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared_server.grpc_address) as channel:
        yield channel


@pytest.fixture
def jobs(channel: grpc.Channel, shared_server: RunningServer) -> Stub:
    return Stub(JobServiceStub(channel), shared_server.metadata)


@pytest.fixture
def workers(channel: grpc.Channel, shared_server: RunningServer) -> Stub:
    return Stub(WorkerServiceStub(channel), shared_server.metadata)


def _submit(jobs: Stub, queue: str, **fields: Any) -> str:
    spec = pb.JobSpec(**{"type": "t", "payload": b'{"a":2.50}', "queue": queue, **fields})
    return str(jobs.SubmitJob(pb.SubmitJobRequest(job=spec)).job.id)


def _fail(workers: Stub, queue: str, *, non_retryable: bool = False) -> None:
    (job,) = workers.LeaseJobs(pb.LeaseRequest(worker_id="worker of the test", queue=queue))
    ack = pb.JobAck(job_id=job.id, lease_id=job.lease_id, error_message="broken", non_retryable=non_retryable)
    assert workers.NackJob(ack).acknowledged


def _at(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def test_a_job_reads_with_all_that_rest_says_of_it(jobs: Stub, workers: Stub, queue_name: str) -> None:
    backoff = pb.Backoff(kind="fixed", base_seconds=7, max_seconds=60, jitter=0.5)
    job_id = _submit(
        jobs, queue_name, unique_key=queue_name, backoff=backoff, timeout_ms=1_500, tags=["x"], max_retries=0
    )
    _fail(workers, queue_name)

    job = jobs.GetJob(pb.GetJobRequest(id=job_id))

    assert (queue_name, backoff, 1_500, ["x"]) == (job.unique_key, job.backoff, job.timeout_ms, list(job.tags))
    assert ("dead", "retries_exhausted") == (job.status, job.dead_because)
    assert [(1, 1, "broken")] == [(error.attempt, error.generation, error.error) for error in job.errors]


def test_a_waiting_job_is_moved_and_its_priority_may_become_zero(jobs: Stub, queue_name: str) -> None:
    job_id = _submit(jobs, queue_name, priority=5)
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)

    moved = jobs.RescheduleJob(
        pb.RescheduleJobRequest(id=job_id, run_at=_at(later), priority=0, queue=f"{queue_name}-b", max_retries=9)
    )
    now = jobs.RescheduleJob(pb.RescheduleJobRequest(id=job_id, delay_ms=0))

    assert (later, 0, f"{queue_name}-b", 9) == (
        moved.run_at.ToDatetime(tzinfo=UTC), moved.priority, moved.queue, moved.max_retries,
    )  # fmt: skip
    assert now.run_at.ToDatetime(tzinfo=UTC) < later
    assert (0, f"{queue_name}-b", 9) == (now.priority, now.queue, now.max_retries)


def test_history_and_logs_are_read(jobs: Stub, workers: Stub, queue_name: str) -> None:
    job_id = _submit(jobs, queue_name)
    _fail(workers, queue_name)

    (entry,) = jobs.ListHistory(pb.ListHistoryRequest(id=job_id)).attempts

    assert ("failed", 1, "worker of the test", "broken") == (entry.outcome, entry.attempt, entry.worker, entry.error)
    assert entry.leased_at.ToDatetime() <= entry.started_at.ToDatetime() <= entry.ended_at.ToDatetime()
    assert [] == list(jobs.ListLogs(pb.ListLogsRequest(id=job_id)).lines)


def test_lists_filter_by_time_and_by_what_a_payload_contains(jobs: Stub, queue_name: str) -> None:
    wanted = _submit(jobs, queue_name, payload=b'{"to":{"country":"NO"}}')
    _submit(jobs, queue_name, payload=b'{"to":{"country":"SE"}}')
    created_at = jobs.GetJob(pb.GetJobRequest(id=wanted)).created_at.ToDatetime(tzinfo=UTC)

    def found(**fields: Any) -> list[str]:
        return [job.id for job in jobs.ListJobs(pb.ListJobsRequest(queue=queue_name, **fields)).jobs]

    assert [wanted] == found(payload=b'{"to":{"country":"NO"}}')
    assert 2 == len(found(created_after=_at(created_at)))
    assert [] == found(created_before=_at(created_at))


def test_bulk_verbs_count_first_and_then_do(jobs: Stub, workers: Stub, queue_name: str) -> None:
    _submit(jobs, queue_name)
    _fail(workers, queue_name)
    for _ in range(2):
        _submit(jobs, queue_name, delay_ms=3_600_000)
    everything = pb.JobFilter(queue=queue_name)

    counted = jobs.RetryJobs(pb.RetryJobsRequest(filter=everything, dry_run=True))
    retried = jobs.RetryJobs(pb.RetryJobsRequest(filter=pb.JobFilter(queue=queue_name, status="failed")))
    would_cancel = jobs.CancelJobs(pb.CancelJobsRequest(filter=everything, dry_run=True))
    cancelled = jobs.CancelJobs(pb.CancelJobsRequest(filter=everything, reason="closing"))

    assert (3, 0) == (counted.matched, counted.changed)
    assert (1, 1) == (retried.matched, retried.changed)
    assert (3, 0) == (would_cancel.matched, would_cancel.changed)
    assert (3, 3) == (cancelled.matched, cancelled.changed)


def test_a_queue_has_figures_and_a_back_off_and_is_purged(jobs: Stub, queue_name: str) -> None:
    backoff = pb.Backoff(kind="linear", base_seconds=3, max_seconds=30, jitter=0)
    before = jobs.SetQueue(pb.SetQueueRequest(queue=queue_name, backoff=backoff))
    _submit(jobs, queue_name)

    figures = jobs.GetQueue(pb.GetQueueRequest(queue=queue_name))
    purged = jobs.PurgeQueue(pb.PurgeQueueRequest(queue=queue_name)).purged
    reset = jobs.SetQueue(pb.SetQueueRequest(queue=queue_name))

    assert (backoff, []) == (before.backoff, list(before.counts))
    assert [("pending", 1)] == [(count.status, count.count) for count in figures.counts]
    assert figures.oldest_waiting_seconds >= 0
    assert 1 == purged
    assert not reset.HasField("backoff")


def test_dead_jobs_are_replayed_with_another_payload_and_purged(jobs: Stub, workers: Stub, queue_name: str) -> None:
    first, second = (_submit(jobs, queue_name) for _ in range(2))
    for _ in range(2):
        _fail(workers, queue_name, non_retryable=True)

    replayed = jobs.ReplayDead(pb.ReplayDeadRequest(ids=[first, NOBODY], payload=b'{"b":1}')).jobs
    purged = jobs.PurgeDead(pb.PurgeDeadRequest(ids=[first, second])).purged

    assert [(first, b'{"b":1}', "pending", 2)] == [
        (job.id, job.payload, job.status, job.generation) for job in replayed
    ]
    assert 1 == purged, "the replayed one lives"
    long_ago = _at(datetime(2001, 1, 1, tzinfo=UTC))
    assert 0 == jobs.PurgeDead(pb.PurgeDeadRequest(before=long_ago)).purged


def test_live_workers_are_listed(jobs: Stub, workers: Stub, queue_name: str) -> None:
    list(workers.LeaseJobs(pb.LeaseRequest(worker_id=queue_name, queue=queue_name)))

    def look() -> Any:
        listed = jobs.ListWorkers(pb.ListWorkersRequest()).workers
        return next((worker for worker in listed if worker.worker_id == queue_name), None)

    # Its sign of life is written down beside its request.
    assert [queue_name] == list(eventually_sync(look, "it is listed").queues)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("RescheduleJob", pb.RescheduleJobRequest(id=NOBODY), "run_at"),
        ("RescheduleJob", pb.RescheduleJobRequest(id="42", priority=1), "id"),
        ("RescheduleJob", pb.RescheduleJobRequest(id=NOBODY, delay_ms=-1), "delay_ms"),
        ("RescheduleJob", pb.RescheduleJobRequest(id=NOBODY, queue=""), "queue"),
        ("RescheduleJob", pb.RescheduleJobRequest(id=NOBODY, max_retries=-1), "max_retries"),
        (
            "RescheduleJob",
            pb.RescheduleJobRequest(id=NOBODY, delay_ms=1, run_at=SOON),
            "run_at",
        ),
        ("ListHistory", pb.ListHistoryRequest(id="42"), "id"),
        ("ListLogs", pb.ListLogsRequest(), "id"),
        ("ListJobs", pb.ListJobsRequest(payload=b"{bad"), "payload"),
        ("ListJobs", pb.ListJobsRequest(created_after=Timestamp(seconds=2**62)), "created_after"),
        ("CancelJobs", pb.CancelJobsRequest(), "filter"),
        ("CancelJobs", pb.CancelJobsRequest(filter=pb.JobFilter(queue="a\0b")), "filter.queue"),
        ("CancelJobs", pb.CancelJobsRequest(filter=pb.JobFilter(), reason="a\0b"), "reason"),
        ("RetryJobs", pb.RetryJobsRequest(), "filter"),
        ("RetryJobs", pb.RetryJobsRequest(filter=pb.JobFilter(status="lost")), "filter.status"),
        ("GetQueue", pb.GetQueueRequest(), "queue"),
        ("SetQueue", pb.SetQueueRequest(queue="q" * 300), "queue"),
        ("SetQueue", pb.SetQueueRequest(queue="q", backoff=pb.Backoff(kind="random")), "backoff.kind"),
        ("PurgeQueue", pb.PurgeQueueRequest(queue=""), "queue"),
        ("ReplayDead", pb.ReplayDeadRequest(), "ids"),
        ("ReplayDead", pb.ReplayDeadRequest(ids=[NOBODY, "42"]), "ids[1]"),
        ("ReplayDead", pb.ReplayDeadRequest(ids=[NOBODY], payload=b"[]"), "payload"),
        ("PurgeDead", pb.PurgeDeadRequest(), "ids"),
        ("PurgeDead", pb.PurgeDeadRequest(ids=[NOBODY], before=Timestamp(seconds=1_700_000_000)), "ids"),
        ("PurgeDead", pb.PurgeDeadRequest(before=Timestamp(seconds=1)), "before"),
    ],
)
def test_what_cannot_be_meant_is_an_invalid_argument_with_its_field(
    jobs: Stub, method: str, request_: Any, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(jobs, method)(request_)

    error: Any = caught.value
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code(), error.details()
    assert f'"field": "{field}"'.encode() in dict(error.trailing_metadata())["quorra-problem-bin"]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("RescheduleJob", pb.RescheduleJobRequest(id=NOBODY, priority=1)),
        ("ListHistory", pb.ListHistoryRequest(id=NOBODY)),
        ("ListLogs", pb.ListLogsRequest(id=NOBODY)),
        ("GetQueue", pb.GetQueueRequest(queue="never used")),
    ],
)
def test_what_does_not_exist_is_not_found(jobs: Stub, method: str, request_: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(jobs, method)(request_)

    error: Any = caught.value
    assert grpc.StatusCode.NOT_FOUND == error.code()
