"""Beating: workers that hold nothing send no heartbeats; operators see them by their open streams."""

from quorra_server.services.dispatch import Dispatcher
from quorra_server.storage import workers
from quorra_server.storage.database import Pool

# As often as the heartbeats of the default lease.
INTERVAL_SECONDS = 10.0


class BeatStreams:
    """Notes the workers whose streams this server holds, all at once."""

    def __init__(self, pool: Pool, dispatcher: Dispatcher) -> None:
        """Take the pool to write through, and who knows the streams."""
        self._pool = pool
        self._dispatcher = dispatcher

    async def run_once(self) -> bool:
        """Note them; never asks for another round at once."""
        if alive := self._dispatcher.workers():
            await workers.beat_streams(self._pool, alive)
        return False
