"""Drain: a backlog, one server, one or two worker processes with no-op handlers; until the last outcome is durable."""

import time
from collections.abc import Iterator

import httpx
from quorra_worker_sdk import Client, NewJob

from benchmarks.stage import API_KEY, Figure, Stage, payload

SUBMIT_BATCH = 2_000
QUEUE = "bench"
SECONDS_MAX = 120
LOOK_SECONDS = 0.05


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure with one worker, and with two."""
    count = 5_000 if short else 200_000
    stage.start_server()
    for workers in (1, 2):
        _fill(stage, count)
        yield Figure(f"{workers} worker{'s' if workers > 1 else ''}", _drain(stage, workers), "jobs/s")


def _fill(stage: Stage, count: int) -> None:
    with Client(stage.grpc_address, api_key=API_KEY) as client:
        jobs = [NewJob("noop", payload(number), queue=QUEUE) for number in range(SUBMIT_BATCH)]
        for _ in range(count // SUBMIT_BATCH):
            client.submit_many(jobs)


def _drain(stage: Stage, workers: int) -> float:
    """Time from when the first jobs have ended to when all have: starting Python is not what is measured."""
    done_before = _succeeded(stage)
    target = done_before + _waiting(stage)
    processes = [stage.start_worker("benchmarks.noop_worker:worker") for _ in range(workers)]
    deadline = time.monotonic() + SECONDS_MAX
    while (began_with := _succeeded(stage)) == done_before and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    began = time.perf_counter()
    while (ended_with := _succeeded(stage)) < target and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - began
    for process in processes:
        process.terminate()
        process.wait()
    return (ended_with - began_with) / seconds


def _succeeded(stage: Stage) -> int:
    return _count(stage, "succeeded")


def _waiting(stage: Stage) -> int:
    return _count(stage, "pending")


def _count(stage: Stage, status: str) -> int:
    entries = httpx.get(f"{stage.http_url}/v1/queues", headers=stage.headers, timeout=30).json()["queues"]
    return sum(entry["count"] for entry in entries if entry["status"] == status)
