"""Tasks that work off what waits, and end when nothing does: the engine of a group commit."""

import asyncio
from collections.abc import Awaitable, Callable


class Runners:
    """The runners of one line of callers.

    Whoever joins the line starts a runner unless enough are at work, so a runner must leave in the very step in which
    it found the line empty. A callback of its task would come a turn of the loop later: who joined in between would
    take it for one that looks again, and wait for nobody.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work_off: Callable[[], Awaitable[None]]) -> None:
        """Start a runner; `work_off` returns when it finds nothing more, and must not wait after that."""
        self._tasks.add(asyncio.create_task(self._run(work_off)))

    async def all_ended(self) -> None:
        """Wait until no runner is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, work_off: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await work_off()
        finally:
            self._tasks.discard(task)
