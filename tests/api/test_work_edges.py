"""The edges of the fast way: goodbyes, notices, and reports that mean harm."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import grpc
import httpx
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.locks import is_held_up, locked
from tests.support.processes import RunningServer
from tests.support.waiting import eventually

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

    async def end(self) -> None:
        """Close the worker's side and wait until the server has closed its own."""
        await self._call.done_writing()
        while await asyncio.wait_for(self._call.read(), ANSWER_SECONDS_MAX) is not grpc.aio.EOF:
            pass

    async def is_silent(self, seconds: float) -> bool:
        """Say whether nothing but pings comes for so long; the stream is of no use afterwards."""
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


async def test_a_run_is_extended_after_the_goodbye_too(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    api.post("/v1/jobs", json={"type": "t", "payload": {}, "queue": queue_name, "timeout_seconds": 60})
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=1))
        (job,) = await worker.jobs(1)
        await worker.say(goodbye=pb.Goodbye(reason="draining"))
        extended = pb.Extended(lease_id=job.lease_id, extra_ms=90_000)
        await worker.say(reports=pb.Reports(sequence=1, extended=[extended]))
        await worker.hear("receipts")

        connection = await asyncpg.connect(shared_server.database_url)
        extra = "SELECT extra_ms FROM quorra.leases WHERE queue = $1"
        await eventually(lambda: connection.fetchval(extra, queue_name), "the extension is written down")
        found = await connection.fetchval(extra, queue_name)
        await connection.close()

    assert [90_000] == found


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


async def test_a_goodbye_does_not_make_the_next_worker_of_the_queue_deaf(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    """The leaving stream ends after its successor came; what it takes down must be its own."""
    async with AsyncExitStack() as stack:
        async with _conversation(shared_server, queue_name) as leaving:
            await leaving.hear("welcome")
            await leaving.say(goodbye=pb.Goodbye())
            await leaving.say(reports=pb.Reports(sequence=0))
            await leaving.hear("receipts")
            successor = await stack.enter_async_context(_conversation(shared_server, queue_name))
            await successor.hear("welcome")
            await successor.say(credit=pb.Credit(granted_total=1))
            await leaving.end()
        (job_id,) = _submit(api, queue_name, 1)

        (job,) = await successor.jobs(1)

    assert job_id == job.id
    assert "incident" not in shared_server.log


async def test_hostile_numbers_and_characters_in_reports_do_no_harm(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    """A start that cannot be written must not keep the starts of others from being written."""
    _submit(api, queue_name, 2)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=2))
        hostile, honest = [job.lease_id for job in await worker.jobs(2)]
        await worker.say(
            reports=pb.Reports(
                sequence=0,
                started=[pb.Started(lease_id=hostile, ago_ms=2**63 - 1), pb.Started(lease_id="x", ago_ms=-(2**63))],
                progress=[pb.Progress(lease_id=hostile, done=-(2**63), total=2**63 - 1, note="\0")],
                logs=[pb.LogLine(lease_id=hostile, level="\0", message="a\0b", ago_ms=2**63 - 1)],
                checkpoints=[pb.Checkpoint(lease_id=hostile, value=b'"' + b"x" * 300_000 + b'"')],
            )
        )
        await worker.hear("receipts")
        await worker.say(reports=pb.Reports(sequence=1, started=[pb.Started(lease_id=honest)]))

        async def started() -> bool:
            counts = api.get(f"/v1/queues/{queue_name}").json()["counts"]
            return bool(counts["processing"] == 2)

        await eventually(started, "both runs have started")
    assert "never retrieved" not in shared_server.log
    assert "incident" not in shared_server.log


async def test_a_start_is_charged_although_the_stream_breaks_at_once(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    """A job that kills its worker must pay for it, however quickly it does."""
    (job_id,) = _submit(api, queue_name, 1)
    async with _conversation(shared_server, queue_name, lease_ttl_seconds=1) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=1))
        (job,) = await worker.jobs(1)
        await worker.say(reports=pb.Reports(sequence=0, started=[pb.Started(lease_id=job.lease_id)]))
        await worker.hear("receipts")

    async def charged() -> bool:
        found = api.get(f"/v1/jobs/{job_id}").json()
        return bool(found["status"] in ("failed", "pending"))

    await eventually(charged, "its lease ran out")
    assert 1 == api.get(f"/v1/jobs/{job_id}").json()["attempts"]


async def test_no_receipt_comes_before_the_commit(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    _submit(api, queue_name, 1)
    async with _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=1))
        (job,) = await worker.jobs(1)
        async with locked(shared_server, "quorra.outcomes"):
            await worker.say(reports=pb.Reports(sequence=0, succeeded=[pb.Succeeded(lease_id=job.lease_id)]))
            receipt = asyncio.create_task(worker.hear("receipts"))
            await eventually(lambda: is_held_up(shared_server, "quorra.outcomes"), "the settle waits")

            early, _ = await asyncio.wait({receipt}, timeout=0.3)

        assert not early
        assert 0 == (await receipt).sequence


async def test_jobs_leased_for_a_stream_that_has_gone_come_back_at_once(
    shared_server: RunningServer, api: httpx.Client, queue_name: str
) -> None:
    (job_id,) = _submit(api, queue_name, 1)
    async with locked(shared_server, "quorra.ready"), _conversation(shared_server, queue_name) as worker:
        await worker.hear("welcome")
        await worker.say(credit=pb.Credit(granted_total=1))
        await eventually(lambda: is_held_up(shared_server, "quorra.ready"), "the lease waits")
        await worker.say(goodbye=pb.Goodbye())
        await worker.say(reports=pb.Reports(sequence=0))
        await worker.hear("receipts")

    async def is_back() -> bool:
        found = api.get(f"/v1/jobs/{job_id}").json()
        return (found["status"], found["deliveries"]) == ("pending", 1)

    await eventually(is_back, "the job is in line again")
