"""Faults of Redis and of the hints that it carries."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis

from tests.faults.kinds.processes import end, pause
from tests.faults.kinds.registry import kind
from tests.faults.stage import Stage

CHANNEL = "quorra:wakeups"


@kind("redis.stop")
async def pause_redis(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP."""
    assert stage.redis is not None
    return await pause(stage.redis, dice.uniform(1.0, 3.0))


@kind("redis.kill")
async def kill_redis(stage: Stage, _: random.Random) -> int:
    """SIGKILL; it forgets everything."""
    assert stage.redis is not None
    return await end(stage, stage.redis, signal.SIGKILL)


@kind("redis.flush")
async def flush_redis(stage: Stage, _: random.Random) -> int:
    """FLUSHALL."""
    async with _redis(stage) as client:
        return int(bool(await client.flushall()))


@kind("redis.slow")
async def slow_redis_down(stage: Stage, _: random.Random) -> int:
    """A script that keeps Redis busy for a second."""
    async with _redis(stage) as client:
        began = time.monotonic()
        await client.eval(
            "local t = redis.call('TIME') local stop = t[1] * 1000000 + t[2] + 1000000 "
            "repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > stop return 1",
            0,
        )
        return int(time.monotonic() - began > 0.9)


@kind("redis.drop_subscribers")
async def lose_hints(stage: Stage, _: random.Random) -> int:
    """End all subscriptions, again and again: hints are lost."""
    hits = 0
    async with _redis(stage) as client:
        for _round in range(10):
            hits += int(await client.client_kill_filter(_type="pubsub"))
            await asyncio.sleep(0.2)
    return hits


@kind("redis.double_hints")
async def double_hints(stage: Stage, dice: random.Random) -> int:
    """Send hints twice, late, and such as are none."""
    hits = 0
    async with _redis(stage) as client:
        subscription = client.pubsub()
        await subscription.subscribe(CHANNEL)
        deadline = time.monotonic() + 2.0
        heard = []
        while time.monotonic() < deadline:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=0.2)
            if message is not None:
                heard.append(message["data"])
        await subscription.unsubscribe()
        for text in [
            *heard,
            *heard,
            '{"queues": ["default", "bulk"]}',
            '{"leases": ["1.2.3.4"]}',
            "nonsense",
            '{"queues": 7}',
        ]:
            hits += await client.publish(CHANNEL, text)
            await asyncio.sleep(dice.uniform(0.0, 0.02))
    return hits


@asynccontextmanager
async def _redis(stage: Stage) -> "AsyncIterator[redis.Redis]":
    client = redis.Redis(port=stage.redis_port, socket_timeout=5, decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()
