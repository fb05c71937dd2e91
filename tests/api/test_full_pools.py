"""Pools that are full: whoever holds jobs can keep them and report them, whatever everybody else waits for."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.faults.plans import new_id
from tests.support.conversation import Conversation
from tests.support.locks import GATE_FUNCTION, GATE_KEY, is_held_up, locked
from tests.support.processes import RunningServer, start_server
from tests.support.rest import Rest
from tests.support.waiting import eventually

# Of a heartbeat and of a receipt. Who waits for a connection in vain is told so after five (QUORRA_ACQUIRE_TIMEOUT).
QUICK_SECONDS = 3.0
# More than the connections of any pool.
WISHES = 12
# QUORRA_POOL_CONNECTIONS, as it is by default.
SUBMIT_CONNECTIONS = 10
GATE = "CREATE TRIGGER gate BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION quorra_test_gate()"


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker that holds jobs, and reports them one by one."""

    stub: Any
    conversation: Conversation
    jobs: list[pb.Job]

    async def beat(self) -> None:
        request = pb.HeartbeatRequest(
            worker_id="stream-worker", boot_id="boot", lease_ids=[self.jobs[-1].lease_id], lease_ttl_seconds=30
        )
        reply = await self.stub.Heartbeat(request, metadata=self.conversation.metadata)
        assert [] == list(reply.ended)

    async def succeed(self) -> None:
        receipts = await self.conversation.report(succeeded=[pb.Succeeded(lease_id=self.jobs[0].lease_id)])
        assert [] == list(receipts.refused)


@asynccontextmanager
async def _holder(server: RunningServer) -> AsyncIterator[Holder]:
    await asyncio.to_thread(Rest(server).submit_many, 2, "t", "held")
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        stub: Any = WorkerServiceStub(channel)
        conversation = Conversation(stub, server.metadata, "held")
        await conversation.hello()
        await conversation.grant(2)
        yield Holder(stub, conversation, await conversation.until_jobs(2))
        conversation.call.cancel()


@asynccontextmanager
async def _gate(server: RunningServer, table: str) -> AsyncIterator[None]:
    """Let every insert into a table wait until the end; a lock of the table would hold up much else."""
    connection = await asyncpg.connect(server.database_url)
    try:
        await connection.execute(GATE_FUNCTION + GATE.format(table=table))
        await connection.execute(f"SELECT pg_advisory_lock({GATE_KEY})")
        yield
    finally:
        await connection.close()


@asynccontextmanager
async def _streams_that_want_jobs(server: RunningServer) -> AsyncIterator[None]:
    """Open streams, each of a queue of its own; the server has begun a lease for each of them."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        stub: Any = WorkerServiceStub(channel)
        conversations = [Conversation(stub, server.metadata, f"wanted-{number}") for number in range(WISHES)]
        for conversation in conversations:
            await conversation.hello(worker_id=conversation.queue)
            await conversation.grant(10)
            # What a stream says is taken in order: with the receipt the lease has been asked for.
            await conversation.report()
        yield
        for conversation in conversations:
            conversation.call.cancel()


@asynccontextmanager
async def _calls_that_want_jobs(server: RunningServer) -> AsyncIterator[None]:
    """Call `LeaseJobs`, each for a queue of its own; the server has begun a lease for each of them."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel, AsyncExitStack() as stack:
        stub: Any = WorkerServiceStub(channel)
        for number in range(WISHES):
            request = pb.LeaseRequest(worker_id=f"plain-{number}", queue=f"wanted-{number}", max_jobs=1)
            call = stub.LeaseJobs(request, metadata=server.metadata)
            reading = asyncio.create_task(call.read())
            stack.callback(reading.cancel)
            stack.callback(call.cancel)
        # Each of them is written down, through another pool, in the step in which its lease is asked for.
        await eventually(lambda: _are_noted(server), "all of them have asked")
        yield


async def _are_noted(server: RunningServer) -> bool:
    return WISHES == await _asked(server, "SELECT count(*) FROM quorra.workers WHERE worker LIKE 'plain-%'")


async def _waiting_at_the_gate(server: RunningServer) -> int:
    return await _asked(
        server, f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE_KEY} AND NOT granted"
    )


async def _asked(server: RunningServer, question: str) -> int:
    connection = await asyncpg.connect(server.database_url)
    try:
        return int(await connection.fetchval(question))
    finally:
        await connection.close()


async def _seconds(answer: Awaitable[None]) -> float:
    began_at = time.monotonic()
    await answer
    return time.monotonic() - began_at


WISHING = {"streams": _streams_that_want_jobs, "plain calls": _calls_that_want_jobs}


@pytest.mark.parametrize("wishing", WISHING)
async def test_heartbeats_and_receipts_are_quick_while_all_leases_hang(server: RunningServer, wishing: str) -> None:
    async with _holder(server) as holder, _gate(server, "quorra.leases"), WISHING[wishing](server):
        await eventually(lambda: _waiting_at_the_gate(server), "leases hang")

        beat_seconds = await _seconds(holder.beat())
        receipt_seconds = await _seconds(holder.succeed())

    assert max(beat_seconds, receipt_seconds) < QUICK_SECONDS, (beat_seconds, receipt_seconds)


@pytest.mark.parametrize("wishing", WISHING)
async def test_heartbeats_are_quick_while_nothing_comes_or_goes_through_the_line(
    server: RunningServer, wishing: str
) -> None:
    """Then settles hang too, since any of them may put a job back in line, and so do the time-outs of runs."""
    async with _holder(server) as holder, AsyncExitStack() as stack:
        await stack.enter_async_context(locked(server, "quorra.ready"))
        reporting = asyncio.create_task(holder.succeed())
        await stack.enter_async_context(WISHING[wishing](server))
        await eventually(lambda: is_held_up(server, "quorra.ready"), "leases hang")

        beat_seconds = await _seconds(holder.beat())
        was_reported = reporting.done()
        await stack.aclose()
        await reporting

    assert not was_reported
    assert beat_seconds < QUICK_SECONDS


async def test_heartbeats_and_receipts_are_quick_while_all_submissions_hang(server: RunningServer) -> None:
    async with (
        _holder(server) as holder,
        _gate(server, "quorra.jobs"),
        httpx.AsyncClient(base_url=server.http_url, headers=server.headers, timeout=20) as http,
    ):
        # With an id of its own each of them takes a connection.
        submitting = [
            asyncio.create_task(http.post("/v1/jobs", json={"id": new_id(), "type": "t", "payload": {}}))
            for _ in range(2 * WISHES)
        ]
        await eventually(lambda: _pool_is_full(server), "the pool of submissions is full")

        beat_seconds = await _seconds(holder.beat())
        receipt_seconds = await _seconds(holder.succeed())

    await asyncio.gather(*submitting, return_exceptions=True)
    assert max(beat_seconds, receipt_seconds) < QUICK_SECONDS, (beat_seconds, receipt_seconds)


async def _pool_is_full(server: RunningServer) -> bool:
    return await _waiting_at_the_gate(server) >= SUBMIT_CONNECTIONS


async def test_a_submission_that_gets_no_connection_in_time_is_told_to_come_back(database_url: str) -> None:
    with start_server(database_url, {"QUORRA_POOL_CONNECTIONS": "1", "QUORRA_ACQUIRE_TIMEOUT": "300ms"}) as server:
        async with (
            _gate(server, "quorra.jobs"),
            httpx.AsyncClient(base_url=server.http_url, headers=server.headers, timeout=20) as http,
        ):
            job = {"type": "t", "payload": {}}
            submitting = asyncio.create_task(http.post("/v1/jobs", json={**job, "id": new_id()}))
            await eventually(lambda: _waiting_at_the_gate(server), "the only connection is taken")

            answer = await http.post("/v1/jobs", json={**job, "id": new_id()})
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)

    assert (503, "storage_unavailable") == (answer.status_code, answer.json()["code"])
    assert "Retry-After" in answer.headers


async def test_a_plain_worker_that_gets_no_connection_in_time_is_told_to_come_back(database_url: str) -> None:
    with start_server(database_url, {"QUORRA_FAST_POOL_CONNECTIONS": "2", "QUORRA_ACQUIRE_TIMEOUT": "300ms"}) as server:
        async with _gate(server, "quorra.leases"), grpc.aio.insecure_channel(server.grpc_address) as channel:
            stub: Any = WorkerServiceStub(channel)
            first = stub.LeaseJobs(pb.LeaseRequest(worker_id="first", max_jobs=1), metadata=server.metadata)
            reading = asyncio.create_task(first.read())
            await eventually(lambda: _waiting_at_the_gate(server), "the only connection for leases is taken")

            second = stub.LeaseJobs(pb.LeaseRequest(worker_id="second", max_jobs=1), metadata=server.metadata)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second.read()
            first.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
