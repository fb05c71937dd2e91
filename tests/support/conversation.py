"""A worker's side of the protocol, message by message."""

import asyncio
from typing import Any

import grpc
from quorra_proto.v1 import quorra_pb2 as pb


class Conversation:
    """A worker's side of one stream, message by message."""

    def __init__(self, stub: Any, metadata: Any, queue: str) -> None:
        self.stub, self.metadata, self.queue = stub, metadata, queue
        self.call = stub.Work(metadata=metadata)
        self.jobs: list[pb.Job] = []
        self.sequence = 0

    async def hello(self, **fields: Any) -> pb.Welcome:
        hello = pb.Hello(
            **{
                "worker_id": "stream-worker",
                "boot_id": "boot",
                "queues": [pb.QueueSubscription(name=self.queue)],
                **fields,
            }
        )
        await self.call.write(pb.WorkerMessage(hello=hello))
        message = await self.call.read()
        welcome: pb.Welcome = message.welcome
        return welcome

    async def grant(self, total: int, **by_queue: int) -> None:
        credit = pb.Credit(granted_total=total, granted_totals_by_queue=by_queue)
        await self.call.write(pb.WorkerMessage(credit=credit))

    async def until_jobs(self, count: int) -> list[pb.Job]:
        async with asyncio.timeout(10):
            while len(self.jobs) < count:
                self.jobs.extend((await self.call.read()).jobs.jobs)
        return self.jobs

    async def report(self, **reports: Any) -> pb.Receipts:
        """Send reports and wait for their receipt."""
        self.sequence += 1
        await self.call.write(pb.WorkerMessage(reports=pb.Reports(sequence=self.sequence, **reports)))
        async with asyncio.timeout(10):
            while True:
                message = await self.call.read()
                self.jobs.extend(message.jobs.jobs)
                if message.WhichOneof("message") == "receipts" and message.receipts.sequence >= self.sequence:
                    receipts: pb.Receipts = message.receipts
                    return receipts

    async def close(self) -> None:
        await self.call.done_writing()
        async with asyncio.timeout(10):
            while await self.call.read() is not grpc.aio.EOF:
                pass
