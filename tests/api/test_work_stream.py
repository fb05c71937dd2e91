"""The fast way: one stream, credit, receipts after the commit, and a goodbye that gives work back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.processes import RunningServer

ANSWER_SECONDS_MAX = 10.0


class Conversation:
    """One `Work` stream, message by message; the server's pings are passed over."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def say(self, **message: Any) -> None:
        await self._call.write(pb.WorkerMessage(**message))

    async def hear(self, kind: str) -> Any:
        """Return the next message, which must be of this kind."""
        while True:
            message = await asyncio.wait_for(self._call.read(), ANSWER_SECONDS_MAX)
            assert message is not grpc.aio.EOF, await self._call.details()
            if message.WhichOneof("message") != "ping":
                assert kind == message.WhichOneof("message"), message
                return getattr(message, kind)

    async def jobs(self, count: int) -> list[pb.Job]:
        found: list[pb.Job] = []
        while len(found) < count:
            found.extend((await self.hear("jobs")).jobs)
        return found

    async def is_silent(self, seconds: float) -> bool:
        """Say whether nothing but pings comes for so long."""
        try:
            async with asyncio.timeout(seconds):
                while (await self._call.read()).WhichOneof("message") == "ping":
                    pass
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def _conversation(server: RunningServer, *queues: str, **hello: Any) -> AsyncIterator[Conversation]:
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        call = WorkerServiceStub(channel).Work(metadata=server.metadata)
        conversation = Conversation(call)
        subscriptions = [pb.QueueSubscription(name=queue) for queue in queues]
        await conversation.say(
            hello=pb.Hello(worker_id="w", boot_id=f"boot of {queues[0]}", slots=10, queues=subscriptions, **hello)
        )
        yield conversation
        call.cancel()


def _submit(api: httpx.Client, queue: str, count: int) -> list[str]:
    jobs = [{"type": "t", "payload": {"n": number}, "queue": queue} for number in range(count)]
    return [job["id"] for job in api.post("/v1/jobs/batch", json={"jobs": jobs}).json()["jobs"]]


@pytest.mark.parametrize("first", [pb.WorkerMessage(), pb.WorkerMessage(credit=pb.Credit(granted_total=1))])
async def test_the_first_message_must_be_hello(shared_server: RunningServer, first: pb.WorkerMessage) -> None:
    async with grpc.aio.insecure_channel(shared_server.grpc_address) as channel:
        call = WorkerServiceStub(channel).Work(metadata=shared_server.metadata)
        await call.write(first)

        assert grpc.StatusCode.INVALID_ARGUMENT == await call.code()
        assert "Hello" in await call.details()


async def test_welcome_says_what_was_granted(shared_server: RunningServer, queue_name: str) -> None:
    async with _conversation(shared_server, queue_name, lease_ttl_seconds=999_999) as worker:
        welcome = await worker.hear("welcome")

    assert 12 * 3600 == welcome.lease_ttl_seconds
    assert ["lease_ttl_seconds"] == [sentence.partition(":")[0] for sentence in welcome.adjusted]


async def test_there_are_never_more_jobs_than_credit(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    _submit(api, queue_name, 10)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=3))
        first = await worker.jobs(3)
        # The same total again, as after a lost message, allows nothing more.
        await worker.say(credit=pb.Credit(granted_total=3))
        assert await worker.is_silent(1.5)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=5))
        second = await worker.jobs(5)

    assert (3, 5) == (len(first), len(second))
    assert 8 == len({job.id for job in first + second})
    assert 8 == len({job.lease_id for job in first + second})


async def test_a_receipt_comes_when_the_outcome_can_be_read(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    good, bad = _submit(api, queue_name, 2)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=2))
        leases = {job.id: job.lease_id for job in await worker.jobs(2)}
        await worker.say(
            reports=pb.Reports(
                sequence=0,
                started=[pb.Started(lease_id=lease) for lease in leases.values()],
                succeeded=[pb.Succeeded(lease_id=leases[good], result=b'{"a": 1}', run_ms=5)],
                failed=[pb.Failed(lease_id=leases[bad], error="no", kind="E", non_retryable=True)],
                logs=[pb.LogLine(lease_id=leases[good], level="info", message="hello")],
            )
        )
        receipts = await worker.hear("receipts")

        assert (0, []) == (receipts.sequence, list(receipts.refused))
        assert ["succeeded", "dead"] == [api.get(f"/v1/jobs/{job_id}").json()["status"] for job_id in (good, bad)]


async def test_a_report_sent_again_is_answered_as_settled_and_a_foreign_one_refused(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    _submit(api, queue_name, 1)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=1))
        (job,) = await worker.jobs(1)
        for sequence in (0, 1):
            done = [pb.Succeeded(lease_id=job.lease_id)]
            await worker.say(reports=pb.Reports(sequence=sequence, succeeded=done))
        await worker.say(reports=pb.Reports(sequence=2, failed=[pb.Failed(lease_id=job.lease_id, error="late")]))
        await worker.say(reports=pb.Reports(sequence=3, succeeded=[pb.Succeeded(lease_id="nonsense")]))
        reasons = []
        while True:
            receipts = await worker.hear("receipts")
            reasons += [refused.reason for refused in receipts.refused]
            if receipts.sequence == 3:
                break

    assert [
        pb.REFUSAL_REASON_ALREADY_SETTLED_SAME,
        pb.REFUSAL_REASON_ALREADY_SETTLED_OTHER,
        pb.REFUSAL_REASON_INVALID,
    ] == sorted(reasons)
    assert "succeeded" == api.get(f"/v1/jobs/{job.id}").json()["status"]


async def test_after_goodbye_no_jobs_come_and_released_ones_cost_nothing(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    (job_id,) = _submit(api, queue_name, 1)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=5))
        (job,) = await worker.jobs(1)
        await worker.say(goodbye=pb.Goodbye(reason="done"))
        await worker.say(reports=pb.Reports(sequence=0, released=[pb.Released(lease_id=job.lease_id)]))
        await worker.hear("receipts")
        _submit(api, queue_name, 1)

        assert await worker.is_silent(1.5)
        found = api.get(f"/v1/jobs/{job_id}").json()
        assert ("pending", 0) == (found["status"], found["attempts"])


async def test_a_cancelled_job_reaches_its_worker_as_a_notice(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    (job_id,) = _submit(api, queue_name, 1)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=1))
        (job,) = await worker.jobs(1)

        api.post(f"/v1/jobs/{job_id}/cancel", json={"reason": "not wanted"})
        notice = await worker.hear("notice")

    assert [(job.lease_id, "cancelled")] == [(ended.lease_id, ended.reason) for ended in notice.ended]


async def test_a_live_worker_is_listed(shared_server: RunningServer, api: httpx.Client, queue_name: str) -> None:
    hello = {"sdk_name": "sdk", "sdk_version": "1", "host": "h", "pid": 7, "types": ["t"], "labels": {"zone": "a"}}
    async with _conversation(shared_server, queue_name, **hello) as worker:
        await worker.hear("welcome")
        workers = api.get("/v1/workers").json()["workers"]

    (found,) = [entry for entry in workers if queue_name in entry["queues"]]
    assert ("w", "h", 7, "sdk 1", ["t"], {"zone": "a"}) == tuple(
        found[name] for name in ("worker_id", "host", "pid", "version", "types", "labels")
    )
