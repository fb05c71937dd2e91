"""The worker of the benchmarks, as a user would write it for speed: handlers that do nothing, or say when they ran."""

import asyncio
import os
import time
from datetime import timedelta

from quorra_worker_sdk import Worker

from benchmarks.gate import wait_at_gate
from benchmarks.worker_record import RECORD

SLOTS = int(os.environ["BENCH_SLOTS"])
LEASE_SECONDS = int(os.environ["BENCH_LEASE_SECONDS"])
QUEUES = os.environ["BENCH_QUEUES"].split(",")
HOLDS = os.environ.get("BENCH_HOLDS") == "yes"

worker = Worker(queues=QUEUES, slots=SLOTS, lease_ttl=timedelta(seconds=LEASE_SECONDS))
record = os.open(os.environ.get("BENCH_RECORD", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
wait_at_gate()


@worker.job("noop")
async def noop(id: int, pad: str) -> None:
    """Do nothing."""


@worker.job("stamp")
async def stamp(id: int, sent: int, pad: str) -> None:
    """Write down how long this job has waited since it was sent."""
    os.write(record, RECORD.pack(id, time.monotonic_ns() - sent))


@worker.job("hold")
async def hold(id: int) -> None:
    """Write down when this job ran; in a worker that is to be killed, run for as long as it lives."""
    os.write(record, RECORD.pack(id, time.monotonic_ns()))
    if HOLDS:
        await asyncio.Event().wait()
