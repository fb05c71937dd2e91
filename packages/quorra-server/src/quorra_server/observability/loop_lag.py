"""Loop lag: how late the event loop comes to what is due. Everything that a server answers waits at least as long."""

import asyncio

from prometheus_client import Histogram

LOOK_SECONDS = 0.5


async def measure_loop_lag(lag_seconds: Histogram) -> None:
    """Observe the lag twice a second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        lag_seconds.observe(max(0.0, loop.time() - due))
