"""Submitting while workers run: as much as they can take, or at a steady rate whatever the answers take."""

import asyncio
import json
import time
from typing import Any

from benchmarks.generators import http
from benchmarks.generators.stopwatch import Stopwatch
from benchmarks.load import OPEN, QUEUE, Target, payload

LOOK_SECONDS = 0.05
# A window with fewer jobs is prolonged.
JOBS_MIN = 100
# Jobs of the first moments, whose waits are not counted, carry this number.
WARM_UP, MEASURED = 0, 1


async def saturate(
    *, seconds: float, warm_up_seconds: float, batch: int, connections: int, open_jobs_max: int, **target: Any
) -> dict[str, Any]:
    """Keep a bounded number of jobs open for some time, and return how many were finished in it."""
    load = _Load(Target(**target), batch)
    gate = asyncio.Event()
    senders = [asyncio.create_task(load.send_while(gate)) for _ in range(connections)]
    watcher = await http.Connection.open(load.target.http_url)
    finished: list[tuple[float, int]] = []
    began = time.perf_counter()
    stopwatch = Stopwatch()
    while time.perf_counter() - began < warm_up_seconds + seconds or finished[-1][1] - finished[0][1] < JOBS_MIN:
        counts = await _counts(watcher, load.target)
        (gate.set if sum(counts.get(status, 0) for status in OPEN) < open_jobs_max else gate.clear)()
        finished.append((time.perf_counter(), counts.get("succeeded", 0)))
        if finished[-1][0] - began < warm_up_seconds:
            finished = finished[-1:]
            stopwatch = Stopwatch()
        await asyncio.sleep(LOOK_SECONDS)
    for sender in senders:
        sender.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    return stopwatch.reply(finished[-1][1] - finished[0][1], window_seconds=finished[-1][0] - finished[0][0])


async def steady(
    *, rate: float, seconds: float, warm_up_seconds: float, batch: int, connections: int, **target: Any
) -> dict[str, Any]:
    """Send so many jobs a second, each batch at its moment.

    A batch that cannot be sent at its moment, because every connection still waits for an answer, carries the moment at
    which it should have been sent: what a slow server delays counts as waiting.
    """
    load = _Load(Target(**target), batch)
    due: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    senders = [asyncio.create_task(load.send_due(due)) for _ in range(connections)]
    began = time.monotonic()
    batches = max(2, int(rate * (seconds + warm_up_seconds) / batch))
    warm_up = int(batches * warm_up_seconds / (seconds + warm_up_seconds))
    stopwatch = Stopwatch()
    for number in range(batches):
        moment = began + number * batch / rate
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        due.put_nowait((WARM_UP if number < warm_up else MEASURED, int(moment * 1e9)))
    await due.join()
    reply = stopwatch.reply(batches * batch, late_seconds=max(0.0, time.monotonic() - (began + batches * batch / rate)))
    for sender in senders:
        sender.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    return reply


class _Load:
    """Batches of `stamp` jobs; a batch of one is a single POST."""

    def __init__(self, target: Target, batch: int) -> None:
        self.target = target
        self._batch = batch
        self._pad = payload(0)["pad"]

    async def send_while(self, gate: asyncio.Event) -> None:
        connection = await http.Connection.open(self.target.http_url)
        while await gate.wait():
            http.created(await connection.send(self._request(WARM_UP, time.monotonic_ns())))

    async def send_due(self, due: "asyncio.Queue[tuple[int, int]]") -> None:
        connection = await http.Connection.open(self.target.http_url)
        while True:
            request = self._request(*await due.get())
            http.created(await connection.send(request))
            due.task_done()

    def _request(self, number: int, sent: int) -> bytes:
        body = {"id": number, "sent": sent, "pad": self._pad}
        job = json.dumps({"type": "stamp", "queue": QUEUE, "payload": body})
        to = self.target
        if self._batch == 1:
            return http.post(to.http_url, to.api_key, "/v1/jobs", job.encode())
        jobs = f'{{"jobs": [{",".join([job] * self._batch)}]}}'
        return http.post(to.http_url, to.api_key, "/v1/jobs/batch", jobs.encode())


async def _counts(connection: http.Connection, target: Target) -> dict[str, int]:
    _, body = await connection.send(http.get(target.http_url, target.api_key, "/v1/queues"))
    return {entry["status"]: entry["count"] for entry in json.loads(body)["queues"] if entry["queue"] == QUEUE}
