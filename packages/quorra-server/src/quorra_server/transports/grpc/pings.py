"""Pings: each worker is asked for a sign of life once an interval, a few of them at a time.

A thousand streams with a timer each would wake the process up at a thousand moments; all of them at once would hold up
whoever comes then.
"""

import asyncio
import itertools
import time

import structlog

from quorra_server.services.ending import end_tasks
from quorra_server.transports.grpc.work_stream import WorkStream

log = structlog.get_logger(__name__)

GROUPS = 25


class Pings:
    """Pings the streams of a server."""

    def __init__(self, interval_seconds: float) -> None:
        """Take how long each stream is left alone between two pings."""
        self._interval_seconds = interval_seconds
        self._groups: list[set[WorkStream]] = [set() for _ in range(GROUPS)]
        self._task: asyncio.Task[None] | None = None

    def add(self, stream: WorkStream) -> None:
        """Ping a stream from now on."""
        min(self._groups, key=len).add(stream)

    def remove(self, stream: WorkStream) -> None:
        """Ping a stream no more."""
        for group in self._groups:
            group.discard(stream)

    def start(self) -> None:
        """Begin to ping."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ping nobody any more."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        step = self._interval_seconds / GROUPS
        due = time.monotonic()
        for group in itertools.cycle(self._groups):
            # Of a loop that is late only the last round is made good, so that intervals stay what they are.
            due = max(due + step, time.monotonic() - self._interval_seconds)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for stream in group:
                self._ping(stream)

    def _ping(self, stream: WorkStream) -> None:
        try:
            stream.ping()
        except Exception:
            # A bug that one stream meets must not leave all others without pings.
            log.exception("ping_failed")
