"""Idle: a thousand workers that wait, each with a stream and a connection of its own, and nothing to do."""

import time
from collections.abc import Iterator

from benchmarks.draining import percentiles
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage

SETTLE_SECONDS = 2.0


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure the server's memory and CPU, how soon one of the workers has a job, and what the pings alone take."""
    workers, probes, seconds = (50, 5, 1.0) if short else (1_000, 100, 20.0)
    stage.begin()
    server = stage.servers[0].process
    time.sleep(SETTLE_SECONDS)
    yield Figure("server memory, no workers", server.memory_info().rss / 1e6, "MB")
    stage.say(f"opening {workers:,} streams")
    with stage.generating("idle_workers", workers=workers, probes=probes) as generator:
        generator.reply()
        stage.say(f"watching {workers:,} idle workers for {seconds:g} s")
        used = _watch(stage, seconds)
        yield Figure(f"server memory, {workers:,} workers", server.memory_info().rss / 1e6, "MB")
        for role in ("server", "PostgreSQL"):
            yield Figure(f"CPU of {role}, {workers:,} workers", used[role], "% of a CPU")
        generator.go_on()
        waits_ms = sorted(generator.reply()["waits_ms"])
    yield from percentiles(f"submit to received, {workers:,} workers", waits_ms, 50, 99)
    stage.begin_bare()
    stage.say("watching a server that only pings")
    with stage.generating("idle_workers", workers=workers, probes=0) as generator:
        generator.reply()
        yield Figure(f"the floor: CPU of pings to {workers:,} workers", _watch(stage, seconds)["server"], "% of a CPU")


def _watch(stage: Stage, seconds: float) -> dict[str, float]:
    """Return how much of a CPU each role uses."""
    time.sleep(SETTLE_SECONDS)
    before = stage.cpu_seconds()
    time.sleep(seconds)
    return {role: (now - before[role]) / seconds * 100 for role, now in stage.cpu_seconds().items()}


SCENARIO = Scenario("idle", "What idle workers cost the server", run)
