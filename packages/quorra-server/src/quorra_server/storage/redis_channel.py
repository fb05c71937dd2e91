"""Wake-ups through Redis publish and subscribe; nothing of Quorra's state is ever kept there."""

from collections.abc import AsyncIterator

import redis.asyncio as redis
from redis.exceptions import RedisError

CHANNEL = "quorra:wakeups"
# A hint that takes longer is worth less than the poll that replaces it.
COMMAND_SECONDS = 0.5
PING_SECONDS = 5.0


class RedisPath:
    """One client that subscribes and publishes."""

    name = "redis"

    def __init__(self, url: str) -> None:
        """Remember where Redis is; nothing is opened yet."""
        self._client = redis.Redis.from_url(
            url, socket_timeout=COMMAND_SECONDS, socket_connect_timeout=COMMAND_SECONDS, decode_responses=True
        )

    async def messages(self) -> AsyncIterator[str]:
        """Subscribe, and yield what other servers say until the connection breaks; now and then "" says that it stands.

        Raises:
            OSError: Redis cannot be reached, or the connection broke.
        """
        subscription = self._client.pubsub()
        try:
            await subscription.subscribe(CHANNEL)
            yield ""
            while True:
                message = await subscription.get_message(ignore_subscribe_messages=True, timeout=PING_SECONDS)
                if message is None:
                    await subscription.ping()
                    yield ""
                elif message["type"] == "message":
                    yield message["data"]
        except RedisError as error:
            raise OSError(str(error)) from error
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]

    async def publish(self, message: str) -> None:
        """Tell the other servers.

        Raises:
            OSError: Redis did not take it.
        """
        try:
            await self._client.publish(CHANNEL, message)
        except RedisError as error:
            raise OSError(str(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
