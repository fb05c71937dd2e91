"""The kinds of faults: one short function each, which hurts, waits, mends, and returns how often it had an effect.

A kind's name begins with what it hurts; two faults of one name's beginning never happen at the same time.
"""

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc
import httpx
import redis.asyncio as redis
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.faults.plans import new_id, new_job
from tests.faults.stage import Slot, Stage
from tests.support.proxy import Proxy

Fault = Callable[[Stage, random.Random], Awaitable[int]]
# Sessions of the servers; behind PgBouncer they have no name.
QUORRA = "application_name = 'quorra-server' OR application_name <> 'faults' AND query LIKE '%quorra.%'"
CHANNEL = "quorra:wakeups"
WAIT_SECONDS_MAX = 20.0
# The grace of servers and workers is 5 s; a statement whose connection is a black hole is given up after 30 s.
STOP_SECONDS_MAX = 40.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        holds_up: Whether leases may be reclaimed late meanwhile, since PostgreSQL or a server is away.
    """

    name: str
    fault: Fault
    holds_up: bool

    @property
    def group(self) -> str:
        """What it hurts."""
        return self.name.rpartition(".")[0]


KINDS: dict[str, Kind] = {}


def kind(name: str, *, holds_up: bool = False) -> Callable[[Fault], Fault]:
    """Return a decorator that registers a fault under a name."""

    def register(fault: Fault) -> Fault:
        KINDS[name] = Kind(name, fault, holds_up)
        return fault

    return register


def unavailable(stage: Stage) -> dict[str, str]:
    """Return the kinds that this machine cannot do, each with why."""
    reasons = {}
    if not stage.postgres.is_on_small_disk:
        reasons["pg.disk_full"] = "no small disk could be mounted"
    if stage.pgbouncer is None:
        reasons["pgbouncer.kill"] = reasons["pgbouncer.stop"] = "there is no PgBouncer"
    if _faketime() is None:
        reasons["server.clock"] = reasons["worker.clock"] = "there is no libfaketime"
    return reasons


# Workers.


@kind("worker.kill")
async def kill_worker(stage: Stage, dice: random.Random) -> int:
    """SIGKILL."""
    return await _end(stage, dice.choice(stage.workers), signal.SIGKILL)


@kind("worker.term")
async def stop_worker_politely(stage: Stage, dice: random.Random) -> int:
    """SIGTERM: it drains."""
    return await _end(stage, dice.choice(stage.workers), signal.SIGTERM)


@kind("worker.term_twice")
async def hurry_worker(stage: Stage, dice: random.Random) -> int:
    """SIGTERM, and again: it hurries."""
    worker = dice.choice(stage.workers)
    process = worker.process
    hits = int(worker.signal(signal.SIGTERM))
    await asyncio.sleep(0.05)
    worker.signal(signal.SIGTERM)
    await _gone(stage, worker.name, process)
    await _alive(worker)
    return hits


@kind("worker.stop")
async def stop_worker_past_its_leases(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP past the lease, then SIGCONT: it reports what is no longer its own."""
    return await _pause(dice.choice(stage.workers), stage.lease_seconds * dice.uniform(1.3, 1.8))


@kind("worker.pause")
async def pause_worker(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP for less than a lease."""
    return await _pause(dice.choice(stage.workers), stage.lease_seconds * dice.uniform(0.2, 0.6))


@kind("worker.freeze")
async def freeze_event_loop(stage: Stage, dice: random.Random) -> int:
    """A handler holds the event loop for longer than a lease; the heartbeat's thread goes on."""
    worker = dice.choice(stage.workers)
    if not worker.signal(signal.SIGUSR1):
        return 0
    pid, before = worker.pid, time.time()
    await asyncio.sleep(stage.lease_seconds * 1.5 + 0.5)
    path = stage.folder / f"worker-{pid}.jsonl"
    text = path.read_text() if path.exists() else ""
    return sum(float(moment) > before for moment in re.findall(r'"event":"froze","at":([\d.]+)', text))


@kind("worker.herd")
async def kill_all_workers(stage: Stage, _: random.Random) -> int:
    """SIGKILL all of them at once: all come back at once."""
    killed = [(worker.name, worker.process) for worker in stage.workers]
    hits = sum(worker.signal(signal.SIGKILL) for worker in stage.workers)
    for name, process in killed:
        await _gone(stage, name, process)
    for worker in stage.workers:
        await _alive(worker)
        await _working(stage, worker)
    return hits


@kind("job.poison")
async def submit_poison(stage: Stage, dice: random.Random) -> int:
    """A job that kills each worker that starts it, until it is dead."""
    job = new_job(dice)
    job |= {
        "id": new_id(),
        "type": "work",
        "priority": 100,
        "max_retries": 1,
        "backoff": {"kind": "fixed", "base_seconds": 0.1},
    }
    job["payload"]["plan"] = "kk"
    job.pop("delay_seconds", None)
    job["payload"].pop("delay", None)
    await _submit(stage, job)
    return int(await _has_state(stage, job["id"], "dead", stage.lease_seconds * 4 + WAIT_SECONDS_MAX))


# Servers.


@kind("server.kill", holds_up=True)
async def kill_server(stage: Stage, dice: random.Random) -> int:
    """SIGKILL."""
    return await _end(stage, dice.choice(stage.servers), signal.SIGKILL)


@kind("server.term", holds_up=True)
async def restart_servers_in_turn(stage: Stage, _: random.Random) -> int:
    """SIGTERM one after the other: a rolling restart."""
    hits = 0
    for server in stage.servers:
        hits += await _end(stage, server, signal.SIGTERM)
    return hits


@kind("server.stop", holds_up=True)
async def pause_server(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP: its connections stay open and nobody answers."""
    return await _pause(dice.choice(stage.servers), dice.uniform(2.0, 6.0))


@kind("server.kill_all", holds_up=True)
async def kill_all_servers(stage: Stage, _: random.Random) -> int:
    """SIGKILL all of them at once."""
    killed = [(server.name, server.process) for server in stage.servers]
    hits = sum(server.signal(signal.SIGKILL) for server in stage.servers)
    for name, process in killed:
        await _gone(stage, name, process)
    for server in stage.servers:
        await _alive(server)
    await stage.wait_until_ready()
    return hits


# PostgreSQL.


@kind("pg.restart_fast", holds_up=True)
async def restart_postgres(stage: Stage, dice: random.Random) -> int:
    """A fast restart."""
    return await _restart_postgres(stage, stage.postgres.stop, dice)


@kind("pg.restart_immediate", holds_up=True)
async def crash_postgres(stage: Stage, dice: random.Random) -> int:
    """An immediate restart: it recovers from its log, as after a power cut."""
    return await _restart_postgres(stage, stage.postgres.crash, dice)


@kind("pg.kill_backend", holds_up=True)
async def kill_backend(stage: Stage, dice: random.Random) -> int:
    """SIGKILL one backend: PostgreSQL ends all others and recovers."""
    async with _direct(stage) as connection:
        pids = [row["pid"] for row in await connection.fetch(f"SELECT pid FROM pg_stat_activity WHERE {QUORRA}")]
    if not pids:
        return 0
    os.kill(dice.choice(pids), signal.SIGKILL)
    stage.note_restart("postgres")
    await asyncio.sleep(0.1)
    await stage.postgres_answers(time.time())
    return 1


@kind("pg.terminate_storm", holds_up=True)
async def terminate_backends(stage: Stage, _: random.Random) -> int:
    """pg_terminate_backend of every connection, again and again."""
    return await _storm(stage, "pg_terminate_backend")


@kind("pg.cancel_storm", holds_up=True)
async def cancel_statements(stage: Stage, _: random.Random) -> int:
    """pg_cancel_backend of every statement, again and again."""
    return await _storm(stage, "pg_cancel_backend")


@kind("pg.read_only", holds_up=True)
async def make_postgres_read_only(stage: Stage, dice: random.Random) -> int:
    """default_transaction_read_only, as on a primary that became a standby."""
    async with _direct(stage) as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(dice.uniform(1.0, 2.5))
            hits = _count_in_log(stage, "read-only transaction")
        finally:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")
    return hits


@kind("pg.long_snapshot")
async def hold_a_snapshot(stage: Stage, dice: random.Random) -> int:
    """A transaction that is open elsewhere: nothing that dies meanwhile can be cleaned up."""
    async with _direct(stage) as connection, connection.transaction(isolation="repeatable_read"):
        before = await connection.fetchval("SELECT count(*) FROM quorra.ready")
        await asyncio.sleep(dice.uniform(5.0, 8.0))
        return int(before == await connection.fetchval("SELECT count(*) FROM quorra.ready"))


@kind("pg.lock_ready", holds_up=True)
async def lock_the_line(stage: Stage, dice: random.Random) -> int:
    """Nobody can submit, lease or retry for a while."""
    return await _lock_table(stage, "quorra.ready", dice)


@kind("pg.lock_outcomes", holds_up=True)
async def lock_the_outcomes(stage: Stage, dice: random.Random) -> int:
    """Nobody can settle for a while."""
    return await _lock_table(stage, "quorra.outcomes", dice)


@kind("pg.lock_leases", holds_up=True)
async def lock_the_leases(stage: Stage, dice: random.Random) -> int:
    """Nobody can lease, renew or settle for a while."""
    return await _lock_table(stage, "quorra.leases", dice)


@kind("pg.exhaust", holds_up=True)
async def exhaust_connections(stage: Stage, dice: random.Random) -> int:
    """Take every connection there is, and end those of the servers."""
    taken: list[asyncpg.Connection] = []
    hits = 0
    try:
        async with _direct(stage) as connection:
            await connection.fetch(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {QUORRA}")
            for _ in range(150):
                try:
                    taken.append(
                        await asyncpg.connect(
                            stage.postgres.url, timeout=2, server_settings={"application_name": "faults"}
                        )
                    )
                except (asyncpg.PostgresError, OSError, TimeoutError):
                    hits += 1
                    break
            await asyncio.sleep(dice.uniform(1.0, 2.0))
    finally:
        for taken_connection in taken:
            taken_connection.terminate()
    return hits


@kind("pg.slow_commit", holds_up=True)
async def slow_commits_down(stage: Stage, dice: random.Random) -> int:
    """Every commit waits a tenth of a second."""
    async with _direct(stage) as connection:
        for setting in ("commit_delay = 100000", "commit_siblings = 0"):
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        await connection.execute("SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(dice.uniform(1.5, 3.0))
            return int(await connection.fetchval("SHOW commit_delay") == "100000")
        finally:
            await connection.execute("ALTER SYSTEM RESET commit_delay")
            await connection.execute("ALTER SYSTEM RESET commit_siblings")
            await connection.execute("SELECT pg_reload_conf()")


@kind("pg.stop", holds_up=True)
async def pause_backends(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP some backends in whatever they do, with all their locks."""
    async with _direct(stage) as connection:
        rows = await connection.fetch(f"SELECT pid FROM pg_stat_activity WHERE ({QUORRA}) AND state <> 'idle'")
    pids = [row["pid"] for row in rows][:3]
    for pid in pids:
        _kill(pid, signal.SIGSTOP)
    await asyncio.sleep(dice.uniform(1.0, 2.5))
    for pid in pids:
        _kill(pid, signal.SIGCONT)
    return len(pids)


@kind("pg.disk_full", holds_up=True)
async def fill_the_disk(stage: Stage, dice: random.Random) -> int:
    """No space is left for PostgreSQL; it may stop, and is started again once there is space."""
    filler = stage.postgres.filler_path
    async with stage.postgres.restarting:
        before = _count_in_log(stage, "No space left on device")
        await asyncio.to_thread(_fill, filler)
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            async with _direct(stage) as connection:
                await connection.execute("SELECT pg_switch_wal()")
                await connection.execute("CHECKPOINT")
        await asyncio.sleep(dice.uniform(1.0, 2.0))
        filler.unlink()
        hits = _count_in_log(stage, "No space left on device") - before
        if not stage.postgres.is_alive():
            stage.postgres.stop()
            await asyncio.to_thread(stage.postgres.start)
            stage.note_restart("postgres")
        await stage.postgres_answers(time.time())
    return max(hits, 0)


# PgBouncer.


@kind("pgbouncer.kill", holds_up=True)
async def kill_pgbouncer(stage: Stage, _: random.Random) -> int:
    """SIGKILL."""
    assert stage.pgbouncer is not None
    return await _end(stage, stage.pgbouncer, signal.SIGKILL)


@kind("pgbouncer.stop", holds_up=True)
async def pause_pgbouncer(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP."""
    assert stage.pgbouncer is not None
    return await _pause(stage.pgbouncer, dice.uniform(1.0, 3.0))


# The network: seven faults of each of four lines.

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


# Redis and the hints.


@kind("redis.stop")
async def pause_redis(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP."""
    assert stage.redis is not None
    return await _pause(stage.redis, dice.uniform(1.0, 3.0))


@kind("redis.kill")
async def kill_redis(stage: Stage, _: random.Random) -> int:
    """SIGKILL; it forgets everything."""
    assert stage.redis is not None
    return await _end(stage, stage.redis, signal.SIGKILL)


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


# Clients.


@kind("client.abandon")
async def lease_and_leave(stage: Stage, _: random.Random) -> int:
    """A plain worker that leases many jobs and goes away: all of them run out."""
    async with grpc.aio.insecure_channel(stage.plain_proxies[0].address) as channel:
        request = pb.LeaseRequest(
            worker_id="plain-leaves",
            queues=["default", "bulk"],
            types=["plain"],
            max_jobs=100,
            lease_ttl_seconds=1,
            wait_seconds=2,
        )
        call = WorkerServiceStub(channel).LeaseJobs(request, metadata=stage.metadata, timeout=5)
        return len([job async for job in call])


@kind("client.lease_and_cut")
async def lease_and_cut(stage: Stage, _: random.Random) -> int:
    """A plain worker whose stream is cut in the middle of its jobs."""
    async with grpc.aio.insecure_channel(stage.plain_proxies[0].address) as channel:
        request = pb.LeaseRequest(
            worker_id="plain-cut",
            queues=["default", "bulk"],
            types=["plain"],
            max_jobs=50,
            lease_ttl_seconds=1,
            wait_seconds=2,
        )
        call = WorkerServiceStub(channel).LeaseJobs(request, metadata=stage.metadata, timeout=5)
        async for _job in call:
            call.cancel()
            return 1
    return 0


@kind("client.greedy")
async def take_credit_and_freeze(stage: Stage, dice: random.Random) -> int:
    """A stream that grants credit, takes jobs, and never says another word."""
    worker_id = f"plain-frozen-{dice.randrange(1000)}"
    hello = pb.Hello(
        worker_id=worker_id,
        boot_id=new_id(),
        types=["plain"],
        slots=50,
        lease_ttl_seconds=1,
        queues=[pb.QueueSubscription(name="default"), pb.QueueSubscription(name="bulk")],
    )
    async with grpc.aio.insecure_channel(stage.plain_proxies[-1].address) as channel:
        call = WorkerServiceStub(channel).Work(metadata=stage.metadata, timeout=8)
        await call.write(pb.WorkerMessage(hello=hello))
        await call.write(pb.WorkerMessage(credit=pb.Credit(granted_total=20)))
        received = 0
        deadline = time.monotonic() + 4
        while received < 20 and time.monotonic() < deadline:
            message = await call.read()
            if not isinstance(message, pb.ServerMessage):
                break
            received += len(message.jobs.jobs)
        # A little longer: more than was granted must not come.
        with contextlib.suppress(TimeoutError):
            message = await asyncio.wait_for(call.read(), 1)
            received += len(message.jobs.jobs) if isinstance(message, pb.ServerMessage) else 0
        stage.history.write("credit", granted=20, received=received)
        call.cancel()
        return received


@kind("client.rubbish")
async def send_rubbish(stage: Stage, dice: random.Random) -> int:
    """Bytes that are no request, on both ports."""
    hits = 0
    for proxy in (stage.http_proxies[0], stage.plain_proxies[0]):
        for _ in range(5):
            with contextlib.suppress(OSError):
                _reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(dice.randbytes(dice.randint(1, 4096)))
                await writer.drain()
                writer.close()
                hits += 1
    return hits


# Clocks.


@kind("server.clock", holds_up=True)
async def move_clock_of_server(stage: Stage, dice: random.Random) -> int:
    """A server whose clock is hours wrong."""
    return await _with_wrong_clock(stage, dice.choice(stage.servers), dice)


@kind("worker.clock")
async def move_clock_of_worker(stage: Stage, dice: random.Random) -> int:
    """A worker whose clock is hours wrong."""
    return await _with_wrong_clock(stage, dice.choice(stage.workers), dice)


# What they share.


async def _end(stage: Stage, slot: Slot, number: int) -> int:
    """Send an ending signal and wait until the next process is there."""
    process = slot.process
    hits = int(slot.signal(number))
    await _gone(stage, slot.name, process)
    await _alive(slot)
    if slot in stage.servers:
        await stage.wait_until_ready()
    elif slot in stage.workers:
        await _working(stage, slot)
    return hits


async def _working(stage: Stage, worker: Slot) -> None:
    """Wait until a worker's process runs jobs."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < deadline:
        path = stage.folder / f"worker-{worker.pid}.jsonl"
        if path.exists() and '"started"' in path.read_text():
            return
        await asyncio.sleep(0.2)


async def _gone(stage: Stage, name: str, process: "subprocess.Popen[bytes] | None") -> None:
    """Wait until a process has ended; one that does not is killed, as a service manager would, and reported."""
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while process is not None and process.poll() is None:
        if time.monotonic() > deadline:
            stage.history.write("hung", what=name, seconds=STOP_SECONDS_MAX)
            process.kill()
            deadline += STOP_SECONDS_MAX
        await asyncio.sleep(0.05)


async def _alive(slot: Slot) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not slot.pid and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def _pause(slot: Slot, seconds: float) -> int:
    pid = slot.pid
    if not pid:
        return 0
    _kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        _kill(pid, signal.SIGCONT)
    return 1


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@asynccontextmanager
async def _direct(stage: Stage) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stage.postgres.url, timeout=5, server_settings={"application_name": "faults"})
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def _redis(stage: Stage) -> "AsyncIterator[redis.Redis]":
    client = redis.Redis(port=stage.redis_port, socket_timeout=5, decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()


async def _restart_postgres(stage: Stage, stop: Callable[[], None], dice: random.Random) -> int:
    async with stage.postgres.restarting:
        await asyncio.to_thread(stop)
        await asyncio.sleep(dice.uniform(0.0, 2.0))
        began = time.time()
        await asyncio.to_thread(stage.postgres.start)
        stage.note_restart("postgres")
        await stage.postgres_answers(began)
    return 1


async def _storm(stage: Stage, function: str) -> int:
    hits = 0
    async with _direct(stage) as connection:
        for _ in range(20):
            rows = await connection.fetch(
                f"SELECT {function}(pid) AS done FROM pg_stat_activity WHERE ({QUORRA}) AND state <> 'idle'"
            )
            hits += sum(row["done"] for row in rows)
            await asyncio.sleep(0.1)
    return hits


async def _lock_table(stage: Stage, table: str, dice: random.Random) -> int:
    async with _direct(stage) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(dice.uniform(0.8, 2.0))
        waiting = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass", table
        )
    return int(waiting)


def _count_in_log(stage: Stage, text: str) -> int:
    return stage.postgres.log_path.read_text(errors="replace").count(text)


def _fill(path: Path) -> None:
    """Take all space that is left."""
    size = shutil.disk_usage(path.parent).free
    with path.open("wb") as file:
        while size >= 4096:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:
                size //= 2


async def _submit(stage: Stage, job: dict[str, object]) -> None:
    payload = job["payload"]
    assert isinstance(payload, dict)
    call = new_id()
    stage.history.write("invoke", call=call, what="submit", jobs=[[job["id"], payload["token"]]])
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    async with httpx.AsyncClient(headers=dict(stage.headers), timeout=3) as client:
        while time.monotonic() < deadline:
            for url in stage.http_urls:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.post(f"{url}/v1/jobs", json=job)).is_success:
                        return
            await asyncio.sleep(0.2)


async def _has_state(stage: Stage, job: object, state: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(headers=dict(stage.headers), timeout=3) as client:
        while time.monotonic() < deadline:
            for url in stage.http_urls:
                with contextlib.suppress(httpx.HTTPError):
                    response = await client.get(f"{url}/v1/jobs/{job}")
                    if response.is_success and response.json()["status"] == state:
                        return True
            await asyncio.sleep(0.3)
    return False


def _faketime() -> str | None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return str(found[0]) if found and shutil.which("faketime") else None


async def _with_wrong_clock(stage: Stage, slot: Slot, dice: random.Random) -> int:
    """Start a process again under another clock, let it work, and end it."""
    library = _faketime()
    assert library is not None
    slot.extra = {
        "LD_PRELOAD": library,
        "FAKETIME": dice.choice(("-3h", "+3h", "-2d")),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    before = slot.log_path.stat().st_size if slot.log_path.exists() else 0
    await _end(stage, slot, signal.SIGKILL)
    slot.extra = {}
    await asyncio.sleep(dice.uniform(4.0, 6.0))
    said = slot.log_path.read_bytes()[before:].decode(errors="replace")
    hits = int(bool(slot.pid) and _tells_another_time(said)) if slot in stage.servers else int(bool(slot.pid))
    await _end(stage, slot, signal.SIGTERM)
    return hits


def _tells_another_time(log: str) -> bool:
    hours = {time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + shift)) for shift in (-3600, 0, 3600)}
    told = re.findall(r"\d{4}-\d\d-\d\dT\d\d", log)
    return any(hour not in hours for hour in told)
