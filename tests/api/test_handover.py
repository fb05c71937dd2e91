"""A worker that waits gets a new job from the very commit that records it; nothing else changes."""

import re

import asyncpg
import grpc
import httpx
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.conversation import Conversation
from tests.support.processes import start_server
from tests.support.rest import Rest
from tests.support.waiting import eventually

HANDED_OVER = re.compile(r"^quorra_jobs_handed_over_total\{.*\} (\S+)$", re.MULTILINE)


def _handed_over(api: httpx.Client) -> float:
    return sum(map(float, HANDED_OVER.findall(api.get("/metrics").text)))


def _submit(api: httpx.Client, queue: str, **fields: object) -> str:
    job_id: str = api.post("/v1/jobs", json={"type": "t", "payload": {}, "queue": queue, **fields}).json()["id"]
    return job_id


async def _until_one_is_handed_over(stream: Conversation, api: httpx.Client) -> pb.Job:
    """Submit one job after the other: once the server knows that the queue is empty, it hands the next one over."""
    before = _handed_over(api)

    async def one_more() -> bool:
        if stream.jobs:
            await _succeed(stream, stream.jobs[-1])
        _submit(api, stream.queue, payload={"n": len(stream.jobs)}, max_retries=5)
        await stream.until_jobs(len(stream.jobs) + 1)
        return _handed_over(api) > before

    await eventually(one_more, "a job is handed over")
    return stream.jobs[-1]


async def _succeed(stream: Conversation, job: pb.Job) -> None:
    await stream.report(succeeded=[pb.Succeeded(lease_id=job.lease_id, result=b'"fine"')])


async def test_a_job_that_is_handed_over_lives_like_any_other(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    await stream.hello()
    await stream.grant(1_000)

    job = await _until_one_is_handed_over(stream, api)
    await _succeed(stream, job)

    read = api.get(f"/v1/jobs/{job.id}").json()
    assert (b'{"n":%d}' % (len(stream.jobs) - 1), queue_name, 1, 5) == (
        job.payload.replace(b" ", b""),
        job.queue,
        job.deliveries,
        job.max_retries,
    )
    assert ("succeeded", "fine", 1) == (read["status"], read["result"], read["attempts"])
    counts = api.get(f"/v1/queues/{queue_name}").json()["counts"]
    assert (len(stream.jobs), 0) == (counts["succeeded"], counts["leased"])
    await stream.close()


async def test_a_batch_that_is_larger_than_the_credit_is_not_handed_over(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    await stream.hello(queues=[pb.QueueSubscription(name=queue_name, slots=2)])
    await stream.grant(1_000)
    await _succeed(stream, await _until_one_is_handed_over(stream, api))
    before, done = _handed_over(api), len(stream.jobs)

    jobs = [{"type": "t", "payload": {}, "queue": queue_name}] * 3
    api.post("/v1/jobs/batch", json={"jobs": jobs})

    await stream.until_jobs(done + 2)
    await stream.report(started=[])
    assert (before, done + 2) == (_handed_over(api), len(stream.jobs))
    assert 1 == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]
    stream.call.cancel()


async def test_a_worker_is_handed_only_types_that_it_knows(
    stream: Conversation, api: httpx.Client, queue_name: str
) -> None:
    await stream.hello(types=["t"])
    await stream.grant(1_000)
    await _until_one_is_handed_over(stream, api)
    held = len(stream.jobs)

    _submit(api, queue_name, type="unknown")
    await stream.report(started=[])

    assert held == len(stream.jobs)
    assert 1 == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]
    await stream.close()


async def test_a_job_that_this_server_was_not_told_of_is_not_overtaken(database_url: str) -> None:
    """It came without a hint, and the next poll is a minute away."""
    settings = {"QUORRA_NOTIFY": "off", "QUORRA_POLL_INTERVAL": "60s"}
    with start_server(database_url, settings) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stream = Conversation(WorkerServiceStub(channel), server.metadata, "default")
            await stream.hello()
            await stream.grant(1_000)
            await _until_one_is_handed_over(stream, Rest(server).http)
            held = len(stream.jobs)
            connection = await asyncpg.connect(database_url)
            first = await connection.fetchval("SELECT id FROM quorra.enqueue('t', '{}')")
            await connection.close()

            second = Rest(server).submit("t")

            await stream.until_jobs(held + 2)
            stream.call.cancel()

    assert [str(first), second] == [job.id for job in stream.jobs[held:]]
