"""Latency on an idle system: from just before the POST to the first line of the handler, one job at a time."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.stage import Figure, Stage, payload

QUEUE = "bench"
WARM_UP = 10
PAUSE_SECONDS = 0.02
SECONDS_MAX = 10.0


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure p50 and p99."""
    count = 20 if short else 500
    stage.start_server()
    record = stage.folder / "record"
    stage.start_worker("benchmarks.noop_worker:worker", BENCH_RECORD=str(record))
    sent: dict[int, int] = {}
    with httpx.Client(base_url=stage.http_url, headers=stage.headers) as client:
        for number in range(WARM_UP + count):
            sent[number] = time.monotonic_ns()
            body = {"type": "stamp", "queue": QUEUE, "payload": payload(number)}
            assert client.post("/v1/jobs", json=body).status_code == 201
            _wait_for(record, number + 1)
            # Spread over the phases of timers and polls, so that none of them flatters us.
            time.sleep(PAUSE_SECONDS + number * 7919 % 17 / 1000)
    lines = [line.split() for line in record.read_text().splitlines()]
    ran = {int(number): int(moment) for number, moment in lines}
    waits = sorted((ran[number] - sent[number]) / 1e6 for number in range(WARM_UP, WARM_UP + count))
    yield Figure("submit to handler, p50", statistics.median(waits), "ms")
    yield Figure("submit to handler, p99", waits[int(len(waits) * 0.99)], "ms")


def _wait_for(record: Path, lines: int) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        if record.exists() and record.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.0005)
    raise TimeoutError(f"job {lines} did not run within {SECONDS_MAX:g} s")
