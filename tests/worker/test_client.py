"""Producers in Python: the clients, and `.enqueue()` of handlers."""

from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub
from quorra_worker_sdk import (
    AsyncClient,
    Client,
    Context,
    IllegalTransition,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    KeyReused,
    NewJob,
    Overloaded,
    PayloadTooLarge,
    StorageUnavailable,
    Unauthenticated,
    WaitTimedOut,
    Worker,
    config,
)
from quorra_worker_sdk.errors import from_grpc

from tests.support.processes import RunningServer, start_server, start_worker
from tests.support.services import free_port

MODULE = """
    from quorra_worker_sdk import Worker

    worker = Worker(queues=["client-tests"])

    @worker.job("double")
    async def double(n: int) -> int:
        return 2 * n

    @worker.job("break")
    async def break_(n: int) -> int:
        raise RuntimeError("no")
"""
QUEUE = "client-tests"


@pytest.fixture
def client(shared_server: RunningServer) -> Client:
    return Client(shared_server.grpc_address, api_key=shared_server.api_key)


def test_a_synchronous_client_submits_reads_cancels_and_retries(client: Client, queue_name: str) -> None:
    job = NewJob("t", {"n": 1}, queue=queue_name, delay=timedelta(hours=1), tags=["a"])

    submitted = client.submit(job)
    many = client.submit_many([job] * 50)

    assert {"n": 1} == client.get(submitted.id).payload
    assert 50 == len({one.id for one in many})
    assert "pending" == client.retry(submitted.id).status
    assert "cancelled" == client.cancel(submitted.id, "enough").status
    with pytest.raises(IllegalTransition):
        client.retry(submitted.id)


def test_errors_of_the_server_are_classes_of_the_same_name(client: Client, shared_server: RunningServer) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        client.submit(NewJob("", {}))
    assert "job.type" == invalid.value.field
    with pytest.raises(JobNotFound):
        client.get("00000000-0000-7000-8000-000000000000")
    client.submit(NewJob("t", {"n": 1}, queue="k"), idempotency_key="same")
    with pytest.raises(KeyReused):
        client.submit(NewJob("t", {"n": 2}, queue="k"), idempotency_key="same")
    with pytest.raises(Unauthenticated):
        Client(shared_server.grpc_address, api_key="wrong").get("00000000-0000-7000-8000-000000000000")
    with pytest.raises(StorageUnavailable):
        Client(f"127.0.0.1:{free_port()}").get("00000000-0000-7000-8000-000000000000")


async def test_a_handler_enqueues_with_its_own_arguments_and_its_result_comes_back(
    shared_server: RunningServer, tmp_path: Path
) -> None:
    worker: Worker[None] = Worker(shared_server.grpc_address, api_key=shared_server.api_key, queues=[QUEUE])

    @worker.job("double")
    async def double(ctx: Context[None], n: int) -> int:
        raise AssertionError("this one only enqueues; the other process runs it")

    @worker.job("break")
    async def break_(n: int) -> int:
        raise AssertionError("this one only enqueues; the other process runs it")

    with start_worker(shared_server, MODULE, tmp_path):
        good = await double.options(unique_key="double:21", priority=5).enqueue(n=21)
        bad = await break_.options(max_retries=0).enqueue(1)

        assert 42 == await good.result(timeout=timedelta(seconds=20))
        with pytest.raises(JobFailed, match="RuntimeError: no"):
            await bad.result(timeout=timedelta(seconds=20))

    later = await double.options(delay=timedelta(hours=1)).enqueue(n=1)
    with pytest.raises(WaitTimedOut):
        await later.result(timeout=timedelta(milliseconds=50))
    with pytest.raises(TypeError):
        await double.enqueue("too", "many")  # type: ignore[call-arg, arg-type]
    await worker.client.close()


async def test_an_asynchronous_client_waits_for_the_end(shared_server: RunningServer, tmp_path: Path) -> None:
    async with AsyncClient(shared_server.grpc_address, api_key=shared_server.api_key) as client:
        with start_worker(shared_server, MODULE, tmp_path):
            submitted = await client.submit(NewJob("double", {"n": 4}, queue=QUEUE))
            state = await client.wait(submitted.id, timeout=timedelta(seconds=20))

    assert ("succeeded", 8, 1) == (state.status, state.result, state.attempts)


def test_a_call_that_is_too_large_says_to_send_fewer_jobs(client: Client, queue_name: str) -> None:
    """Taken for an overload, it would be tried again for ever."""
    jobs = [NewJob("t", {"x": "a" * 1_000_000}, queue=queue_name) for _ in range(22)]

    with pytest.raises(PayloadTooLarge, match="send fewer jobs in one call"):
        client.submit_many(jobs)


async def test_a_call_that_is_too_large_says_so_on_an_event_loop_too(
    shared_server: RunningServer, queue_name: str
) -> None:
    jobs = [NewJob("t", {"x": "a" * 1_000_000}, queue=queue_name) for _ in range(22)]

    async with AsyncClient(shared_server.grpc_address, api_key=shared_server.api_key) as client:
        with pytest.raises(PayloadTooLarge, match="send fewer jobs in one call"):
            await client.submit_many(jobs)


async def test_an_overload_of_the_server_stays_one_to_try_again(database_url: str) -> None:
    """gRPC has one status for it and for a call that is too large."""
    with start_server(database_url, {"QUORRA_STREAMS_PER_KEY_MAX": "1"}) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stub = JobServiceStub(channel)
            first = stub.ImportJobs(metadata=server.metadata)
            await first.write(pb.SubmitJobsRequest(jobs=[pb.JobSpec(type="t", payload=b"{}")]))
            await first.read()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ImportJobs(metadata=server.metadata).read()
            first.cancel()

    assert Overloaded is type(from_grpc(refused.value))


def test_a_key_from_the_environment_is_sent_without_the_end_of_its_line(
    shared_server: RunningServer, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`echo key | base64` puts one into a Kubernetes secret."""
    monkeypatch.setenv("QUORRA_API_KEY", f"{shared_server.api_key}\n")

    with Client(shared_server.grpc_address) as client:
        assert "pending" == client.submit(NewJob("t", {}, queue=queue_name)).status


@pytest.mark.parametrize("key", ["s3cr\net", "s3crét", "s3cr\udcff", "s3cr\x00"])
def test_a_key_that_no_call_can_carry_is_named_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="QUORRA_API_KEY: use visible ASCII") as refused:
        config.load({"QUORRA_API_KEY": key})

    assert "s3cr" not in str(refused.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_in_code_is_looked_at_as_one_from_the_environment(kind: type[Client] | type[AsyncClient]) -> None:
    kind("localhost:1", api_key="key\n")
    with pytest.raises(ValueError, match="api_key: use visible ASCII"):
        kind("localhost:1", api_key="k\ny")
