"""Pings: each worker is asked for a sign of life once an interval, a few of them at a time.

A thousand streams with a timer each would wake the process up at a thousand moments; all of them at once would hold up
whoever comes then.
"""

import asyncio
import itertools

from quorra_server.services.ending import end_tasks
from quorra_server.transports.grpc.work_stream import WorkStream

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
        for group in itertools.cycle(self._groups):
            await asyncio.sleep(self._interval_seconds / GROUPS)
            for stream in group:
                stream.ping()
