"""Wake-ups: hints that there may be work, or that something ended. Losing all of them costs latency, never a job.

In process first, then Redis and PostgreSQL for other servers; beneath all of them lies the dispatcher's poll.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

import structlog

from quorra_server.observability.metrics import Metrics
from quorra_server.services.ending import end_tasks

log = structlog.get_logger(__name__)

# One message per queue in this time is enough: whoever hears it takes all there is.
PUBLISH_INTERVAL_SECONDS = 0.05
PUBLISH_SECONDS_MAX = 0.5
RECONNECT_SECONDS = (0.2, 5.0)
QUEUES_PER_MESSAGE_MAX = 20
LEASES_PER_MESSAGE_MAX = 50
# Past this many timers the poll takes over; each is one future run time of a job.
TIMERS_MAX = 10_000


class Path(Protocol):
    """A way to other servers."""

    name: str

    def messages(self) -> AsyncIterator[str]:
        """Connect and yield messages ("" says that the connection stands); raise OSError when it breaks."""
        ...

    async def publish(self, message: str) -> None:
        """Send a message; raise OSError if that fails."""
        ...


class Hint(NamedTuple):
    """What a wake-up says."""

    queues: Sequence[str] = ()
    ended_leases: Sequence[str] = ()
    # Why the leases ended: `cancelled` or `lost`.
    reason: str = "cancelled"


class Wakeups:
    """Tells whoever listens, here and on other servers, that there may be work."""

    def __init__(self, node: str, paths: Sequence[Path], metrics: Metrics) -> None:
        """Take the ways to other servers; there may be none."""
        self._node = node
        self._paths = paths
        self._metrics = metrics
        self._listeners: list[Callable[[Hint], None]] = []
        self._end_listeners: list[Callable[[Iterable[UUID]], None]] = []
        self._unsent_queues: set[str] = set()
        self._unsent_leases: dict[str, list[str]] = {}
        self._unsent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._timers: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._up: dict[str, bool] = {path.name: False for path in paths}

    def listen(self, listener: Callable[[Hint], None]) -> None:
        """Call `listener` with every hint from now on."""
        self._listeners.append(listener)

    def listen_for_ends(self, listener: Callable[[Iterable[UUID]], None]) -> None:
        """Call `listener` with the ids of jobs whose life ended through this server."""
        self._end_listeners.append(listener)

    def work_ready(self, queues: Iterable[str]) -> None:
        """Say that queues have jobs that are due."""
        names = list(queues)
        if not names:
            return
        self._tell(Hint(queues=names))
        if self._paths:
            self._unsent_queues.update(names)
            self._unsent.set()

    def work_due(self, queue: str, run_at_epoch_seconds: float) -> None:
        """Say that a queue will have a due job at a moment; servers elsewhere find it by their poll."""
        delay = run_at_epoch_seconds - time.time()
        if delay <= 0:
            self.work_ready([queue])
            return
        # Rounded up to 10 ms, so that many retries of one moment share a timer.
        key = (queue, int(run_at_epoch_seconds * 100) + 1)
        if key in self._timers or len(self._timers) >= TIMERS_MAX:
            return
        due_in = max(0.0, key[1] / 100 - time.time())
        self._timers[key] = asyncio.get_running_loop().call_later(due_in, self._timer_fired, key)

    def _timer_fired(self, key: tuple[str, int]) -> None:
        del self._timers[key]
        self._tell(Hint(queues=[key[0]]))

    def leases_ended(self, lease_ids: Sequence[str], reason: str) -> None:
        """Say that leases were ended here (`cancelled` or `lost`), so that their handlers stop."""
        self._tell(Hint(ended_leases=lease_ids, reason=reason))
        if self._paths:
            self._unsent_leases.setdefault(reason, []).extend(lease_ids)
            self._unsent.set()

    def jobs_ended(self, job_ids: Iterable[UUID]) -> None:
        """Say that the life of jobs may have ended; `job_ids` is not read when nobody waits for any."""
        for listener in self._end_listeners:
            listener(job_ids)

    def start(self) -> None:
        """Begin to send and receive."""
        if self._paths:
            self._tasks.append(asyncio.create_task(self._send()))
        self._tasks.extend(asyncio.create_task(self._receive(path)) for path in self._paths)

    async def stop(self) -> None:
        """Stop; what was not sent is lost, which is harmless."""
        for timer in self._timers.values():
            timer.cancel()
        await end_tasks(self._tasks)

    def _tell(self, hint: Hint) -> None:
        for listener in self._listeners:
            listener(hint)

    async def _send(self) -> None:
        while True:
            await self._unsent.wait()
            self._unsent.clear()
            for message in self._take_messages():
                await asyncio.gather(*(self._publish(path, message) for path in self._paths))
            await asyncio.sleep(PUBLISH_INTERVAL_SECONDS)

    def _take_messages(self) -> list[str]:
        queues, self._unsent_queues = sorted(self._unsent_queues), set()
        leases_by_reason, self._unsent_leases = self._unsent_leases, {}
        parts: list[dict[str, object]] = [
            {"queues": queues[start : start + QUEUES_PER_MESSAGE_MAX]}
            for start in range(0, len(queues), QUEUES_PER_MESSAGE_MAX)
        ]
        parts.extend(
            {"leases": leases[start : start + LEASES_PER_MESSAGE_MAX], "reason": reason}
            for reason, leases in leases_by_reason.items()
            for start in range(0, len(leases), LEASES_PER_MESSAGE_MAX)
        )
        return [json.dumps({"from": self._node, **part}) for part in parts]

    async def _publish(self, path: Path, message: str) -> None:
        if not self._up[path.name]:
            return
        try:
            await asyncio.wait_for(path.publish(message), PUBLISH_SECONDS_MAX)
        except Exception as error:
            # As in `_receive`: else nothing would be sent any more, by any path.
            self._demote(path, error)

    async def _receive(self, path: Path) -> None:
        pause = RECONNECT_SECONDS[0]
        while True:
            try:
                async for message in path.messages():
                    pause = RECONNECT_SECONDS[0]
                    self._promote(path)
                    if message:
                        self._hear(path, message)
            except Exception as error:
                # What a client library did not foresee must not end the path for good: redis-py lets through the
                # RuntimeError of uvloop when it writes to a connection that was reset before its first byte.
                self._demote(path, error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, RECONNECT_SECONDS[1])

    def _hear(self, path: Path, message: str) -> None:
        try:
            said = json.loads(message)
            if said.get("from") == self._node:
                return
            hint = Hint(
                queues=list(said.get("queues", ())),
                ended_leases=list(said.get("leases", ())),
                reason=str(said.get("reason", "cancelled")),
            )
        except (ValueError, AttributeError, TypeError):
            # Anybody may write to the channel; what is not ours is not a hint.
            return
        self._metrics.wakeups_received.labels(path.name).inc()
        self._tell(hint)

    def _promote(self, path: Path) -> None:
        self._up[path.name] = True
        self._metrics.wakeup_path.labels(path.name).set(1)

    def _demote(self, path: Path, error: BaseException) -> None:
        if self._up[path.name]:
            log.warning("wakeup_path_down", path=path.name, error=str(error))
        self._up[path.name] = False
        self._metrics.wakeup_path.labels(path.name).set(0)
