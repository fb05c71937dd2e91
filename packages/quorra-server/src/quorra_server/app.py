"""The composition root: builds pools, services, transports and loops, and stops them in reverse."""

import asyncio
import gc
import hashlib
import hmac
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import structlog

from quorra_server.config import Address, Config
from quorra_server.domain.errors import QuorraError, Unauthenticated
from quorra_server.observability.metrics import Metrics
from quorra_server.observability.process import measure_process
from quorra_server.services import Services
from quorra_server.services.acknowledged import Acknowledged
from quorra_server.services.cancel import CancelService
from quorra_server.services.dispatch import Dispatcher
from quorra_server.services.health import HealthService
from quorra_server.services.lease import LeaseService
from quorra_server.services.loops import (
    analyze_outgrown,
    beat_streams,
    close_batches,
    expire_leases,
    fold_counts,
    prune_history,
    time_out_runs,
    watch_primary,
    watch_snapshots,
)
from quorra_server.services.loops.runner import Loop
from quorra_server.services.plain_workers import PlainWorkers
from quorra_server.services.purge import PurgeService
from quorra_server.services.replay import ReplayService
from quorra_server.services.reschedule import RescheduleService
from quorra_server.services.retry import RetryService
from quorra_server.services.settle import SettleService
from quorra_server.services.starts import StartsBuffer
from quorra_server.services.submit import SubmitService
from quorra_server.services.wait import WaitService
from quorra_server.services.wakeups import Path, Wakeups
from quorra_server.storage.breaker import Breaker
from quorra_server.storage.database import Database, Pool, PoolSettings
from quorra_server.storage.notifications import PostgresPath
from quorra_server.storage.primary import Primary
from quorra_server.transports.grpc.server import GrpcServer
from quorra_server.transports.rest.server import RestServer

log = structlog.get_logger(__name__)

VERSION = version("quorra-server")
ANONYMOUS = "anonymous"
# A batch of a thousand jobs is some ten thousand objects that are gone within milliseconds. Python's 700 would have the
# garbage collector look at all of them first.
YOUNG_OBJECTS_MAX = 20_000
# Workers that do not hear the drain message by then notice when their stream closes.
DRAIN_MESSAGES_SECONDS = 1.0


async def serve(config: Config, stop: asyncio.Event, *, shares_ports: bool) -> None:
    """Run one server until `stop` is set, then drain it.

    Args:
        config: Everything that can be set.
        stop: Set by whoever wants it to end.
        shares_ports: Whether other processes of one supervisor, which has claimed the ports, listen on them too.

    Raises:
        OSError: A port is taken.
    """
    metrics = Metrics(VERSION, config.node)
    primary = Primary(config.database.dsn)
    acknowledged = Acknowledged()
    database = _database(config, primary)
    wakeups = Wakeups(config.node, _paths(config, primary), metrics)
    services = _services(config, database, wakeups, metrics, acknowledged)
    failovers = watch_primary.ReportFailovers(primary, database.main, acknowledged, metrics, config.node)
    watch = watch_primary.WatchPrimary(primary, metrics)
    authenticate = authenticator(config)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_opened(database))
        await stack.enter_async_context(_running(config, services, wakeups, metrics, database, watch, failovers))
        stack.push_async_callback(primary.close)
        grpc_server = GrpcServer(
            services,
            database,
            config.limits,
            authenticate,
            node=config.node,
            version=VERSION,
            connection_age_seconds=config.timing.connection_age_seconds,
            shares_port=shares_ports,
        )
        rest_server = RestServer(services, database, metrics, config, authenticate, version=VERSION)
        with _listening(config.listen.http, shares_port=shares_ports) as http_socket:
            await _start_grpc(grpc_server, config.listen.grpc)
            await rest_server.start(http_socket)
            # What a server is made of stays until it ends: the garbage collector need not look through it each time.
            gc.freeze()
            gc.set_threshold(YOUNG_OBJECTS_MAX)
            log.info("serving", http=str(config.listen.http), grpc=str(config.listen.grpc), node=config.node)
            await stop.wait()
            await _drain(config, services, grpc_server, rest_server)
    log.info("stopped")


def authenticator(config: Config) -> Callable[[str | None], str]:
    """Return what turns an API key into the name of its principal."""
    if not config.security.auth:
        return lambda _: ANONYMOUS
    expected = hashlib.sha256(config.security.api_key.encode()).digest()
    principal = f"key-{expected.hex()[:12]}"

    def authenticate(key: str | None) -> str:
        # Digests of one length are compared, so that the time says nothing about the key.
        if key and hmac.compare_digest(hashlib.sha256(key.encode()).digest(), expected):
            return principal
        raise Unauthenticated(
            "The API key is missing or wrong; send it as X-API-Key, or as Authorization: Bearer <key>."
        )

    return authenticate


def _database(config: Config, primary: Primary) -> Database:
    door = Breaker()

    def pool(connections: int) -> Pool:
        return Pool(_pool_settings(config, connections), door, primary)

    fast_connections = config.database.fast_pool_connections
    lease_connections = fast_connections // 2
    return Database(
        main=pool(config.database.pool_connections),
        leases=pool(lease_connections),
        fast=pool(fast_connections - lease_connections),
    )


def _pool_settings(config: Config, connections: int) -> PoolSettings:
    database = config.database
    return PoolSettings(
        dsn=database.dsn,
        connections_max=connections,
        acquire_seconds=database.acquire_seconds,
        statement_seconds=database.statement_seconds,
        prepared_statements=database.prepared_statements,
    )


def _paths(config: Config, primary: Primary) -> Sequence[Path]:
    paths: list[Path] = []
    if config.redis_url:
        # Redis is an extra: only a server that is told to use it needs the client.
        from quorra_server.storage.redis_channel import RedisPath

        paths.append(RedisPath(config.redis_url))
    if config.database.notify:
        paths.append(PostgresPath(primary))
    return paths


def _services(
    config: Config, database: Database, wakeups: Wakeups, metrics: Metrics, acknowledged: Acknowledged
) -> Services:
    poll_seconds = config.timing.poll_seconds
    dispatcher = Dispatcher(database.leases, wakeups, metrics, poll_seconds=poll_seconds)
    settle = SettleService(database.fast, wakeups, metrics, acknowledged)
    return Services(
        submit=SubmitService(database.main, dispatcher, wakeups, metrics, acknowledged),
        lease=LeaseService(database.leases, wakeups, metrics, settle, poll_seconds=poll_seconds),
        plain_workers=PlainWorkers(database.main),
        dispatcher=dispatcher,
        starts=StartsBuffer(database.fast),
        settle=settle,
        closing=close_batches.CloseBatches(database.fast),
        beating=beat_streams.BeatStreams(database.main),
        cancel=CancelService(database.main, wakeups),
        retry=RetryService(database.main, wakeups),
        replay=ReplayService(database.main, wakeups),
        reschedule=RescheduleService(database.main, wakeups),
        purge=PurgeService(database.main),
        wait=WaitService(database.main, wakeups),
        health=HealthService(database.main),
    )


@asynccontextmanager
async def _opened(database: Database) -> AsyncIterator[None]:
    await database.open()
    try:
        yield
    finally:
        await database.close()


@asynccontextmanager
async def _running(
    config: Config,
    services: Services,
    wakeups: Wakeups,
    metrics: Metrics,
    database: Database,
    watch: watch_primary.WatchPrimary,
    failovers: watch_primary.ReportFailovers,
) -> AsyncIterator[None]:
    """Run everything that works by itself: wake-ups, dispatch, starts and the loops."""
    loops = [
        Loop(
            "expire_leases",
            expire_leases.ExpireLeases(database.leases, wakeups, metrics).run_once,
            expire_leases.INTERVAL_SECONDS,
        ),
        Loop(
            "time_out_runs",
            time_out_runs.TimeOutRuns(database.leases, wakeups, metrics).run_once,
            time_out_runs.INTERVAL_SECONDS,
        ),
        Loop("close_batches", services.closing.run_once, close_batches.INTERVAL_SECONDS),
        Loop("fold_counts", fold_counts.FoldCounts(database.main, metrics).run_once, fold_counts.INTERVAL_SECONDS),
        Loop("beat_streams", services.beating.run_once, beat_streams.INTERVAL_SECONDS),
        Loop("watch_primary", watch.run_once, watch_primary.INTERVAL_SECONDS),
        Loop("report_failovers", failovers.run_once, watch_primary.INTERVAL_SECONDS),
        Loop(
            "analyze_outgrown",
            analyze_outgrown.AnalyzeOutgrown(database.main).run_once,
            analyze_outgrown.INTERVAL_SECONDS,
        ),
        Loop(
            "watch_snapshots",
            watch_snapshots.WatchSnapshots(database.main, metrics).run_once,
            watch_snapshots.INTERVAL_SECONDS,
        ),
        Loop(
            "prune_history",
            prune_history.PruneHistory(
                database.main,
                succeeded_days=config.timing.retention_succeeded_days,
                dead_days=config.timing.retention_dead_days,
            ).run_once,
            prune_history.INTERVAL_SECONDS,
        ),
    ]
    wakeups.start()
    services.dispatcher.start()
    services.starts.start()
    for loop in loops:
        loop.start()
    measuring = asyncio.create_task(measure_process(metrics, database.pools))
    try:
        yield
    finally:
        measuring.cancel()
        for loop in loops:
            await loop.stop()
        await services.dispatcher.stop()
        await services.settle.flush()
        await _stop_starts(services)
        await services.lease.flush()
        await wakeups.stop()


async def _stop_starts(services: Services) -> None:
    try:
        await services.starts.stop()
    except QuorraError as error:
        log.warning("starts_lost", error=error.message)


def _listening(address: Address, *, shares_port: bool) -> socket.socket:
    """Bind the HTTP port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares_port))
    listening.bind((address.bind_host.strip("[]"), address.port))
    listening.setblocking(False)
    return listening


async def _start_grpc(server: GrpcServer, address: Address) -> None:
    try:
        await server.start(f"{address.bind_host}:{address.port}")
    except RuntimeError as error:
        raise OSError(f"The gRPC address {address} cannot be bound: {error}") from error


async def _drain(config: Config, services: Services, grpc_server: GrpcServer, rest_server: RestServer) -> None:
    """Turn balancers away, let workers reconnect elsewhere, and wait for what is under way."""
    log.info("draining", grace_seconds=config.timing.grace_seconds)
    services.health.is_draining = True
    await grpc_server.set_serving(False)
    await asyncio.sleep(config.timing.drain_delay_seconds)
    await services.dispatcher.drain()
    try:
        await asyncio.wait_for(grpc_server.drain_workers(), DRAIN_MESSAGES_SECONDS)
    except TimeoutError:
        log.warning("drain_not_heard")
    # Whoever waits for a job, or for work, is answered now rather than cut off at the end of the grace.
    await services.wait.stop()
    services.lease.stop_waiting()
    await asyncio.gather(rest_server.stop(config.timing.grace_seconds), grpc_server.stop(config.timing.grace_seconds))


async def check(config: Config) -> list[str]:
    """Return what keeps this configuration from serving: an unreachable database, or a wrong schema."""
    database = _database(config, Primary(config.database.dsn))
    async with _opened(database):
        return (await HealthService(database.main).check()).problems
