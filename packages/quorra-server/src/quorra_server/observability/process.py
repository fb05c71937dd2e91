"""What a process measures of itself twice a second: how late its event loop is, and how its pools are used."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from quorra_server.observability.metrics import Metrics

LOOK_SECONDS = 0.5


class PoolUse(Protocol):
    """Connections of one pool: open, idle among them, and callers that wait for one."""

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def idle(self) -> int: ...  # noqa: D102

    @property
    def waiting(self) -> int: ...  # noqa: D102


async def measure_process(metrics: Metrics, pools: Mapping[str, PoolUse]) -> None:
    """Measure until cancelled. Everything that a server answers waits at least as long as its loop is late."""
    loop = asyncio.get_running_loop()
    while True:
        for name, pool in pools.items():
            metrics.pool_connections.labels(name, "open").set(pool.size)
            metrics.pool_connections.labels(name, "idle").set(pool.idle)
            metrics.pool_connections.labels(name, "awaited").set(pool.waiting)
        due = loop.time() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        metrics.loop_lag_seconds.observe(max(0.0, loop.time() - due))
