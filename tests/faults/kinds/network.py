"""Faults of the network: eight disturbances of each of four lines."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from tests.faults.kinds.registry import Fault, kind
from tests.faults.stage import Stage
from tests.support.proxy import Proxy

Disturbance = Callable[[Proxy, random.Random], None]


def _delay(proxy: Proxy, dice: random.Random) -> None:
    proxy.delay_seconds = dice.uniform(0.05, 0.4)


def _throttle(proxy: Proxy, dice: random.Random) -> None:
    proxy.bytes_per_second = dice.choice((2_000, 20_000))


def _cut_after(proxy: Proxy, dice: random.Random) -> None:
    proxy.cut_after_bytes = dice.choice((500, 5_000, 50_000))


def _black_hole_there(proxy: Proxy, _: random.Random) -> None:
    proxy.swallow_to_target = True


def _black_hole_back(proxy: Proxy, _: random.Random) -> None:
    proxy.swallow_to_client = True


def _reset(proxy: Proxy, _: random.Random) -> None:
    proxy.cut()


def _half_close(proxy: Proxy, _: random.Random) -> None:
    proxy.half_close()


def _partition(proxy: Proxy, _: random.Random) -> None:
    proxy.refuses = True
    proxy.cut()


DISTURBANCES: dict[str, tuple[Disturbance, float]] = {
    "delay": (_delay, 3.0),
    "throttle": (_throttle, 3.0),
    "cut_after": (_cut_after, 2.0),
    "hole_there": (_black_hole_there, 4.0),
    "hole_back": (_black_hole_back, 4.0),
    "reset": (_reset, 0.3),
    "half_close": (_half_close, 0.5),
    "partition": (_partition, 3.0),
}


LINES: dict[str, Callable[[Stage], Sequence[Proxy]]] = {
    "net.db": lambda stage: stage.db_proxies,
    "net.worker": lambda stage: stage.worker_proxies,
    "net.client": lambda stage: [*stage.http_proxies, *stage.plain_proxies],
    "net.redis": lambda stage: stage.redis_proxies,
}


def _disturb(line: str, disturbance: Disturbance, seconds: float) -> Fault:
    async def fault(stage: Stage, dice: random.Random) -> int:
        proxies = [proxy for proxy in LINES[line](stage) if proxy.connections] or list(LINES[line](stage))
        chosen = dice.sample(proxies, dice.randint(1, max(1, len(proxies) - 1)))
        before = sum(proxy.disturbed for proxy in chosen)
        for proxy in chosen:
            disturbance(proxy, dice)
        try:
            # Long enough for a line on which little is said.
            deadline = time.monotonic() + seconds * dice.uniform(1.0, 1.6)
            while time.monotonic() < deadline:
                await asyncio.sleep(0.1)
        finally:
            for proxy in chosen:
                proxy.heal()
        return sum(proxy.disturbed for proxy in chosen) - before

    return fault


for _line in LINES:
    for _name, (_disturbance, _seconds) in DISTURBANCES.items():
        kind(f"{_line}.{_name}", holds_up=_line == "net.db")(_disturb(_line, _disturbance, _seconds))


@kind("net.worker.slow_reader")
async def slow_reader(stage: Stage, dice: random.Random) -> int:
    """A worker that hardly reads what it is sent."""
    proxy = dice.choice(stage.worker_proxies)
    before = proxy.disturbed
    proxy.bytes_per_second = 300
    await asyncio.sleep(stage.lease_seconds * 2)
    proxy.heal()
    proxy.cut()
    return proxy.disturbed - before
