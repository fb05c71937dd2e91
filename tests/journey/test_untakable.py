"""A waiting job that no lease can take, end to end: the queue goes on without it, for streams and for plain workers."""

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub
from quorra_server.services.loops.parking import TRIES_MAX

from tests.support.conversation import Conversation
from tests.support.poison import untakable
from tests.support.processes import RunningServer
from tests.support.rest import Rest

JOBS = 30
QUEUE = "held-up"
MAKE_DUE = "UPDATE quorra.ready SET run_at = now() - interval '1 second'"
INCIDENTS = re.compile(r'^quorra_incidents_total\{at="lease_jobs"\} (\S+)', re.MULTILINE)


@pytest.fixture
async def stub(server: RunningServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        yield WorkerServiceStub(channel)


async def _make_due(server: RunningServer) -> None:
    connection = await asyncpg.connect(server.database_url)
    await connection.execute(MAKE_DUE)
    await connection.close()


async def test_a_stream_is_sent_all_others_and_in_the_end_the_culprit(server: RunningServer, stub: Any) -> None:
    job_ids = Rest(server).submit_many(JOBS, "t", QUEUE)
    culprit = job_ids[13]
    async with untakable(server.database_url, culprit):
        conversation = Conversation(stub, server.metadata, QUEUE)
        await conversation.hello()
        await conversation.grant(2 * JOBS)
        others = [job.id for job in await conversation.until_jobs(JOBS - 1)]
    metrics, log = Rest(server).http.get("/metrics").text, server.log
    await _make_due(server)
    jobs = await conversation.until_jobs(JOBS)
    conversation.call.cancel()

    assert [job_id for job_id in job_ids if job_id != culprit] == others
    assert culprit == jobs[-1].id
    assert ["1.0"] == INCIDENTS.findall(metrics)
    (line,) = [line for line in log.splitlines() if "job_parked" in line]
    assert culprit in line
    assert '"incident": "' in line


async def test_a_plain_worker_is_told_of_the_bug_three_times_and_then_given_all_others(
    server: RunningServer, stub: Any
) -> None:
    job_ids = Rest(server).submit_many(JOBS, "t", QUEUE)
    culprit = job_ids[13]
    wish = pb.LeaseRequest(worker_id="w", queue=QUEUE, max_jobs=JOBS)

    async with untakable(server.database_url, culprit):
        errors = []
        for _ in range(TRIES_MAX):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.LeaseJobs(wish, metadata=server.metadata).read()
            errors.append(caught.value)
        others = [job.id async for job in stub.LeaseJobs(wish, metadata=server.metadata)]
    await _make_due(server)
    last = [job.id async for job in stub.LeaseJobs(wish, metadata=server.metadata)]

    assert {grpc.StatusCode.INTERNAL} == {error.code() for error in errors}
    assert all("incident" in (error.details() or "") for error in errors)
    assert [job_id for job_id in job_ids if job_id != culprit] == others
    assert [culprit] == last
