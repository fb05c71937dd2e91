"""How soon a worker finds a server again that was away."""

import asyncio

import grpc
from quorra_worker_sdk.channels import open_channel

from tests.support.waiting import eventually

# With gRPC's own back-off the sixth attempt comes after 13 to 19 s, and each later one after two minutes.
ATTEMPTS = 6
SECONDS_MAX = 10.0


async def test_a_server_that_is_away_is_looked_for_every_few_seconds() -> None:
    """A heartbeat that hears of it two minutes later has lost all its leases."""
    attempts: list[str] = []

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append("")
        writer.close()

    async def are_enough() -> bool:
        return len(attempts) >= ATTEMPTS

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        with open_channel(f"{host}:{port}") as channel:
            grpc.channel_ready_future(channel)
            await eventually(are_enough, f"{ATTEMPTS} attempts to connect", timeout=SECONDS_MAX)
