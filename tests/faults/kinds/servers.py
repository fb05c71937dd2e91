"""Faults of servers, and of the PgBouncer in front of one of them."""

import random
import signal

from tests.faults.kinds.processes import alive, end, gone, pause
from tests.faults.kinds.registry import kind
from tests.faults.stage import Stage


@kind("server.kill", holds_up=True)
async def kill_server(stage: Stage, dice: random.Random) -> int:
    """SIGKILL."""
    return await end(stage, dice.choice(stage.servers), signal.SIGKILL)


@kind("server.term", holds_up=True)
async def restart_servers_in_turn(stage: Stage, _: random.Random) -> int:
    """SIGTERM one after the other: a rolling restart."""
    hits = 0
    for server in stage.servers:
        hits += await end(stage, server, signal.SIGTERM)
    return hits


@kind("server.stop", holds_up=True)
async def pause_server(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP: its connections stay open and nobody answers."""
    return await pause(dice.choice(stage.servers), dice.uniform(2.0, 6.0))


@kind("server.kill_all", holds_up=True)
async def kill_all_servers(stage: Stage, _: random.Random) -> int:
    """SIGKILL all of them at once."""
    killed = [(server.name, server.process) for server in stage.servers]
    hits = sum(server.signal(signal.SIGKILL) for server in stage.servers)
    for name, process in killed:
        await gone(stage, name, process)
    for server in stage.servers:
        await alive(server)
    await stage.wait_until_ready()
    return hits


@kind("pgbouncer.kill", holds_up=True)
async def kill_pgbouncer(stage: Stage, _: random.Random) -> int:
    """SIGKILL."""
    assert stage.pgbouncer is not None
    return await end(stage, stage.pgbouncer, signal.SIGKILL)


@kind("pgbouncer.stop", holds_up=True)
async def pause_pgbouncer(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP."""
    assert stage.pgbouncer is not None
    return await pause(stage.pgbouncer, dice.uniform(1.0, 3.0))
