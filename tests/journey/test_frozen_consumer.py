"""A consumer that does not read costs the server a bounded piece of memory, once, and nobody else their jobs."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import psutil
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.conversation import Conversation
from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually

MEGABYTE = 1024 * 1024
SLOTS = 500
JOBS = 2_000
PAYLOAD = {"text": "x" * 10_000}
SWALLOW = f"""
    from quorra_worker_sdk import Worker

    worker = Worker(slots={SLOTS}, prefetch_jobs_max=0)

    @worker.job("swallow")
    async def swallow(text: str) -> None: ...
"""
# What is leased to a worker and unread: five megabytes of payloads, as rows, as jobs and as messages.
FROZEN_WORKER_MEGABYTES = 32
# A thousand unread receipts of sixty kilobytes, and what lies in gRPC.
UNREAD_RECEIPTS_MEGABYTES = 128
# What further consumers of the kind may add to the first one's: memory is used again.
AGAIN_MEGABYTES = 24
REFUSALS = 200


class Memory:
    """The resident memory of a server above what it had at the beginning, in megabytes."""

    def __init__(self, server: RunningServer) -> None:
        self._process = psutil.Process(server.process.pid)
        self._base = self._process.memory_info().rss
        self.most = 0.0

    def look(self) -> float:
        now = (self._process.memory_info().rss - self._base) / MEGABYTE
        self.most = max(self.most, now)
        return now

    async def until(self, is_so: Callable[[], Awaitable[bool]], what: str, *, timeout: float = 60) -> None:
        """Wait for a condition, and look all the time."""

        async def look() -> bool:
            self.look()
            return await is_so()

        await eventually(look, what, timeout=timeout)


def _submit(rest: Rest, queue: str, jobs: int) -> None:
    for _ in range(jobs // SLOTS):
        batch = [{"type": "swallow", "payload": PAYLOAD, "queue": queue} for _ in range(SLOTS)]
        assert rest.http.post("/v1/jobs/batch", json={"jobs": batch}).is_success


def _drain(rest: Rest, queue: str) -> None:
    _submit(rest, queue, JOBS)
    rest.until_count(queue, "succeeded", JOBS)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_frozen_worker_costs_the_memory_of_its_slots_and_nobody_else_their_jobs(
    server: RunningServer, tmp_path: Path
) -> None:
    rest, lease = Rest(server), {"QUORRA_WORKER_LEASE_TTL": "60s"}
    with start_worker(server, SWALLOW, tmp_path, environment=lease) as frozen:
        await asyncio.to_thread(_drain, rest, "default")
        memory = Memory(server)
        frozen.signal(signal.SIGSTOP)
        await asyncio.to_thread(_submit, rest, "default", 2 * SLOTS)
        with start_worker(server, SWALLOW, tmp_path, arguments=("--queues", "others")):
            await asyncio.to_thread(_drain, rest, "others")

            async def is_dropped() -> bool:
                return "worker_stream_silent" in server.log

            await memory.until(is_dropped, "it is dropped")
        held = await asyncio.to_thread(rest.count, "default", "leased")

    print(f"a frozen worker: at most {memory.most:.1f} MB more")
    assert SLOTS == held
    assert memory.most < FROZEN_WORKER_MEGABYTES


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_consumer_that_does_not_read_its_receipts_costs_a_bounded_piece_of_memory_once(
    server: RunningServer,
) -> None:
    rest, memory, most = Rest(server), Memory(server), list[float]()
    for number in range(1, 4):
        await _report_without_reading(server, rest, memory, number)
        most.append(memory.most)

    print(f"receipts that nobody reads: at most {most} MB more")
    assert most[0] < UNREAD_RECEIPTS_MEGABYTES
    assert most[-1] - most[0] < AGAIN_MEGABYTES


async def _report_without_reading(server: RunningServer, rest: Rest, memory: Memory, number: int) -> None:
    """Report nonsense without reading any receipt, until the server has dropped so many consumers."""
    refused = [pb.Succeeded(lease_id=f"nonsense-{'x' * 200}")] * REFUSALS

    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        stream = Conversation(WorkerServiceStub(channel), server.metadata, "default")
        await stream.hello(worker_id=f"worker-{number}")

        async def report_for_ever() -> None:
            for sequence in range(1, 1_000_000):
                reports = pb.Reports(sequence=sequence, succeeded=refused)
                await stream.call.write(pb.WorkerMessage(reports=reports))

        async def is_dropped() -> bool:
            return number <= server.log.count("worker_does_not_read")

        reporting = asyncio.create_task(report_for_ever())
        await memory.until(is_dropped, "the consumer is dropped")
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)

    async def is_gone() -> bool:
        return "quorra_worker_streams 0.0" in await asyncio.to_thread(lambda: rest.http.get("/metrics").text)

    await memory.until(is_gone, "what was kept for it is free")
