"""Plain workers: `LeaseJobs` is their only sign of life, so it is what operators see them by."""

import asyncio
import time
from collections import OrderedDict

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.storage import workers
from quorra_server.storage.database import Pool
from quorra_server.storage.workers import WorkerHello

log = structlog.get_logger(__name__)

# A worker may ask for jobs a hundred times a second; it is written down this often at most.
NOTE_SECONDS = 10.0
# Ids are the client's to choose; the oldest are forgotten, which costs one more write.
WORKERS_MAX = 10_000


class PlainWorkers:
    """Notes who asks for jobs the plain way."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool
        self._noted_at: OrderedDict[str, float] = OrderedDict()
        self._writes: set[asyncio.Task[None]] = set()

    def note(self, hello: WorkerHello) -> None:
        """Write down that a worker lives, unless that was done lately; holds nobody up."""
        now = time.monotonic()
        if now - self._noted_at.get(hello.worker, -NOTE_SECONDS) < NOTE_SECONDS:
            return
        self._noted_at[hello.worker] = now
        self._noted_at.move_to_end(hello.worker)
        if len(self._noted_at) > WORKERS_MAX:
            self._noted_at.popitem(last=False)
        write = asyncio.create_task(self._write(hello))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, hello: WorkerHello) -> None:
        try:
            await workers.record_worker(self._pool, hello)
        except QuorraError as error:
            log.warning("worker_not_noted", worker=hello.worker, error=error.message)
