"""Clients that mean harm."""

import asyncio
import contextlib
import random
import time

import grpc
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.faults.kinds.registry import kind
from tests.faults.plans import new_id
from tests.faults.stage import Stage


@kind("client.abandon")
async def lease_and_leave(stage: Stage, _: random.Random) -> int:
    """A plain worker that leases many jobs and goes away: all of them run out."""
    async with grpc.aio.insecure_channel(stage.plain_proxies[0].address) as channel:
        request = pb.LeaseRequest(
            worker_id="plain-leaves",
            queues=["default", "bulk"],
            types=["plain"],
            max_jobs=100,
            lease_ttl_seconds=1,
            wait_seconds=2,
        )
        call = WorkerServiceStub(channel).LeaseJobs(request, metadata=stage.metadata, timeout=5)
        return len([job async for job in call])


@kind("client.lease_and_cut")
async def lease_and_cut(stage: Stage, _: random.Random) -> int:
    """A plain worker whose stream is cut in the middle of its jobs."""
    async with grpc.aio.insecure_channel(stage.plain_proxies[0].address) as channel:
        request = pb.LeaseRequest(
            worker_id="plain-cut",
            queues=["default", "bulk"],
            types=["plain"],
            max_jobs=50,
            lease_ttl_seconds=1,
            wait_seconds=2,
        )
        call = WorkerServiceStub(channel).LeaseJobs(request, metadata=stage.metadata, timeout=5)
        async for _job in call:
            call.cancel()
            return 1
    return 0


@kind("client.greedy")
async def take_credit_and_freeze(stage: Stage, dice: random.Random) -> int:
    """A stream that grants credit, takes jobs, and never says another word."""
    worker_id = f"plain-frozen-{dice.randrange(1000)}"
    hello = pb.Hello(
        worker_id=worker_id,
        boot_id=new_id(),
        types=["plain"],
        slots=50,
        lease_ttl_seconds=1,
        queues=[pb.QueueSubscription(name="default"), pb.QueueSubscription(name="bulk")],
    )
    async with grpc.aio.insecure_channel(stage.plain_proxies[-1].address) as channel:
        call = WorkerServiceStub(channel).Work(metadata=stage.metadata, timeout=8)
        await call.write(pb.WorkerMessage(hello=hello))
        await call.write(pb.WorkerMessage(credit=pb.Credit(granted_total=20)))
        received = 0
        deadline = time.monotonic() + 4
        while received < 20 and time.monotonic() < deadline:
            message = await call.read()
            if not isinstance(message, pb.ServerMessage):
                break
            received += len(message.jobs.jobs)
        # A little longer: more than was granted must not come.
        with contextlib.suppress(TimeoutError):
            message = await asyncio.wait_for(call.read(), 1)
            received += len(message.jobs.jobs) if isinstance(message, pb.ServerMessage) else 0
        stage.history.write("credit", granted=20, received=received)
        call.cancel()
        return received


@kind("client.rubbish")
async def send_rubbish(stage: Stage, dice: random.Random) -> int:
    """Bytes that are no request, on both ports."""
    hits = 0
    for proxy in (stage.http_proxies[0], stage.plain_proxies[0]):
        for _ in range(5):
            with contextlib.suppress(OSError):
                _reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                with contextlib.closing(writer):
                    writer.write(dice.randbytes(dice.randint(1, 4096)))
                    await writer.drain()
                hits += 1
    return hits
