"""Producers in Python: the clients, and `.enqueue()` of handlers."""

from datetime import timedelta
from pathlib import Path

import pytest
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
    StorageUnavailable,
    Unauthenticated,
    WaitTimedOut,
    Worker,
)

from tests.support.processes import RunningServer, start_worker
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
