"""The bare queue's worker: it reads a payload, awaits the handler and reports, and does nothing else.

python -m benchmarks.bare.worker
"""

import os
from typing import Any

import grpc
import msgspec
import uvloop
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from benchmarks.gate import wait_at_gate

# What the SDK's worker comes to in a drain.
WINDOW = 4_000
UNLIMITED = [("grpc.max_receive_message_length", -1)]


async def noop(id: int, pad: str) -> None:
    """Do nothing."""


async def _work(grpc_address: str) -> None:
    async with grpc.aio.insecure_channel(grpc_address, options=UNLIMITED) as channel:
        call: Any = WorkerServiceStub(channel).Work()
        await call.write(pb.WorkerMessage(hello=pb.Hello(worker_id="bare")))
        await call.read()
        await call.write(pb.WorkerMessage(credit=pb.Credit(granted_total=WINDOW)))
        ended = sequence = 0
        while isinstance(message := await call.read(), pb.ServerMessage):
            if message.HasField("jobs"):
                sequence += 1
                await call.write(await _run(message.jobs, sequence))
                ended += len(message.jobs.jobs)
                await call.write(pb.WorkerMessage(credit=pb.Credit(granted_total=WINDOW + ended)))
            elif message.HasField("ping"):
                await call.write(pb.WorkerMessage(ping=message.ping))


async def _run(jobs: pb.Jobs, sequence: int) -> pb.WorkerMessage:
    """Run jobs one after another, and return the report of their ends."""
    report = pb.WorkerMessage(reports=pb.Reports(sequence=sequence))
    for job in jobs.jobs:
        await noop(**msgspec.json.decode(job.payload))
        report.reports.succeeded.add().lease_id = job.lease_id
    return report


if __name__ == "__main__":
    wait_at_gate()
    uvloop.run(_work(os.environ["QUORRA_GRPC_ADDR"]))
