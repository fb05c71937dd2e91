"""The interval runner that all loops share."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.observability.logging import log_trouble
from quorra_server.services.ending import end_tasks

log = structlog.get_logger(__name__)


class Loop:
    """Calls `run_once` again and again; a round that says it found work is followed by the next one at once."""

    def __init__(self, name: str, run_once: Callable[[], Awaitable[bool]], interval_seconds: float) -> None:
        """Take what to do and how long to rest between rounds that found nothing."""
        self._name = name
        self._run_once = run_once
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with a rest of random length, so that servers started together do not move in step."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Stop between two rounds or in the middle of one: every round is one transaction."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        await asyncio.sleep(self._interval_seconds * random.random())  # noqa: S311 - jitter, not a secret
        while True:
            found_work = False
            try:
                found_work = await self._run_once()
            except QuorraError as error:
                log_trouble(log, "loop_round_failed", error, loop=self._name)
            except Exception:
                # A bug in one round must not end the loop: the next round may well succeed.
                log.exception("loop_round_crashed", loop=self._name)
            if not found_work:
                await asyncio.sleep(self._interval_seconds)
