"""Beating: workers that hold nothing send no heartbeats; operators see them by their open streams."""

from collections.abc import Iterator
from contextlib import contextmanager

from quorra_server.storage import workers
from quorra_server.storage.database import Pool
from quorra_server.storage.workers import WorkerHello

# As often as the heartbeats of the default lease.
INTERVAL_SECONDS = 10.0


class BeatStreams:
    """Notes the workers whose streams this server holds, all at once."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to write through."""
        self._pool = pool
        # A worker that reconnects has two streams for a moment.
        self._open: dict[object, WorkerHello] = {}

    @contextmanager
    def seeing(self, hello: WorkerHello) -> Iterator[None]:
        """See a worker for as long as its stream is open."""
        stream = object()
        self._open[stream] = hello
        try:
            yield
        finally:
            del self._open[stream]

    async def run_once(self) -> bool:
        """Note them; never asks for another round at once."""
        hellos = {(hello.worker, hello.boot_id): hello for hello in self._open.values()}
        if hellos:
            known = await workers.beat_streams(self._pool, list(hellos))
            # Forgotten in a long outage, or by a standby that was promoted.
            for worker in hellos.keys() - known:
                await workers.record_worker(self._pool, hellos[worker])
        return False
