"""One job at a time on an idle system, each sent when the one before has run."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.generators import http
from benchmarks.generators.stopwatch import Stopwatch
from benchmarks.load import QUEUE, Target, payload
from benchmarks.worker_record import RECORD, read_record

WARM_UP = 10
PAUSE_SECONDS = 0.02
LOOK_SECONDS = 0.0005
SECONDS_MAX = 30.0


async def run(*, count: int, record: str, queue: str = QUEUE, size_bytes: int = 200, **target: Any) -> dict[str, Any]:
    """Return how long each job took from just before its POST to the first line of its handler, in milliseconds."""
    to = Target(**target)
    connection = await http.Connection.open(to.http_url)
    stopwatch = Stopwatch()
    for number in range(WARM_UP + count):
        job = {"type": "stamp", "queue": queue, "payload": {**payload(number, size_bytes), "sent": time.monotonic_ns()}}
        request = http.post(to.http_url, to.api_key, "/v1/jobs", json.dumps(job).encode())
        http.created(await connection.send(request))
        await _wait_for(record, number + 1)
        # Spread over the phases of timers and polls, so that none of them flatters us.
        await asyncio.sleep(PAUSE_SECONDS + number * 7919 % 17 / 1000)
    connection.close()
    waits_ms = [wait_ns / 1e6 for number, wait_ns in read_record(Path(record)) if number >= WARM_UP]
    return stopwatch.reply(count, waits_ms=waits_ms)


async def _wait_for(record: str, runs: int) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while os.stat(record).st_size < runs * RECORD.size:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {runs} did not run within {SECONDS_MAX:g} s")
        await asyncio.sleep(LOOK_SECONDS)
