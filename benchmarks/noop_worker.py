"""The worker of the benchmarks: handlers that do nothing, or say when they ran."""

import os
import time

from quorra_worker_sdk import Worker

worker = Worker(queues=["bench"], slots=int(os.environ.get("BENCH_SLOTS", "200")))
record = os.open(os.environ.get("BENCH_RECORD", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@worker.job("noop", queue="bench")
async def noop(id: int, pad: str) -> None:
    """Do nothing."""


@worker.job("stamp", queue="bench")
async def stamp(id: int, pad: str) -> None:
    """Write down when this job ran."""
    os.write(record, f"{id} {time.monotonic_ns()}\n".encode())
