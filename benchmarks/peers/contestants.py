"""Who takes part: versions, documented fast settings, and what each keeps and promises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

REDIS_PROMISE = "Redis with an append-only file flushed each second: a power cut loses up to a second of jobs"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A job queue and how to measure it.

    Attributes:
        packages: What to install, pinned; nothing for ourselves.
        jobs: How many to submit in bulk and to drain, so that a run lasts a few seconds, and 30 s at most.
        singles: How many to submit one at a time.
        settings: Handed to the adapter, and printed: the fast ones of the documentation.
        unfinished: Counts the jobs that are not durably acknowledged: SQL, or Lua for Redis.
        keeps: What is left of a job that has succeeded.
        promises: What happens to the job of a worker that dies, and what a late report can do.
    """

    name: str
    title: str
    runtime: Literal["quorra", "python", "node"]
    store: Literal["postgres", "redis"]
    jobs: int
    singles: int
    unfinished: str
    keeps: str
    promises: str
    packages: tuple[str, ...] = ()
    python: str = "3.11"
    settings: Mapping[str, Any] = field(default_factory=dict)
    chunk: int = 1_000
    scenarios: tuple[str, ...] = ("bulk", "single", "drain", "latency")
    door: Literal["rest", "grpc"] = "rest"

    @property
    def form(self) -> str:
        """Say what stands between the program and the store."""
        if self.runtime == "quorra":
            return "server: producers speak REST or gRPC, workers gRPC"
        return f"{'Node' if self.runtime == 'node' else 'Python'} library, straight to the store"


_QUORRA_UNFINISHED = (
    "SELECT (SELECT count(*) FROM quorra.jobs) - (SELECT count(*) FROM quorra.outcomes WHERE status IS NOT NULL)"
)
_QUORRA_KEEPS = "job, payload, result, and every attempt in the history"
_QUORRA_PROMISES = (
    "durable; at least once; every report fenced by its lease; a killed worker's jobs run again by the end of the "
    "lease (30 s) plus 2 s"
)

OURS = (
    Contestant(
        name="quorra",
        title="Quorra, REST",
        runtime="quorra",
        store="postgres",
        jobs=100_000,
        singles=20_000,
        settings={"slots": 200},
        unfinished=_QUORRA_UNFINISHED,
        keeps=_QUORRA_KEEPS,
        promises=_QUORRA_PROMISES,
    ),
    Contestant(
        name="quorra-grpc",
        title="Quorra, gRPC",
        runtime="quorra",
        store="postgres",
        jobs=100_000,
        singles=10_000,
        settings={"slots": 200},
        unfinished=_QUORRA_UNFINISHED,
        keeps=_QUORRA_KEEPS,
        promises=_QUORRA_PROMISES,
        scenarios=("bulk", "single", "latency"),
        door="grpc",
    ),
)

PEERS = (
    Contestant(
        name="graphile",
        title="graphile-worker 0.18.0",
        runtime="node",
        store="postgres",
        packages=("graphile-worker@0.18.0", "pg@8.23.1"),
        jobs=100_000,
        singles=10_000,
        settings={
            "producer_pool": 32,
            "worker": {
                "concurrentJobs": 24,
                "maxPoolSize": 25,
                "localQueue": {"size": 500},
                "completeJobBatchDelay": 0,
                "failJobBatchDelay": 0,
            },
        },
        unfinished="SELECT count(*) FROM graphile_worker._private_jobs",
        keeps="nothing: the job is deleted",
        promises="durable; at least once; completes by the job's id alone (no fence); a killed worker's jobs stay "
        "locked for 4 hours",
    ),
    Contestant(
        name="pgboss",
        title="pg-boss 12.38.0",
        runtime="node",
        store="postgres",
        packages=("pg-boss@12.38.0",),
        jobs=100_000,
        singles=10_000,
        settings={
            "pool": 32,
            "queue": {"notify": True},
            "work": {"batchSize": 1_000, "localConcurrency": 4, "burstWhenBatchFull": True},
        },
        unfinished="SELECT count(*) FROM pgboss.job WHERE name = 'bench' AND state < 'completed'",
        keeps="the job for 7 days; its last attempt only",
        promises="durable; at least once; fenced by the attempt; a batch of 1,000 is acknowledged, or fails, as one; "
        "a killed worker's jobs wait 15 minutes",
    ),
    Contestant(
        name="pgqueuer",
        title="PgQueuer 1.6.0",
        runtime="python",
        store="postgres",
        packages=("pgqueuer==1.6.0", "asyncpg==0.32.0", "uvloop==0.23.0"),
        jobs=50_000,
        singles=10_000,
        settings={"producer_pool": 32, "batch_size": 100},
        unfinished="SELECT count(*) FROM pgqueuer",
        keeps="a log line for each status; the payload is deleted",
        promises="durable; at least once; a killed worker's jobs run again after 30 s",
    ),
    Contestant(
        name="procrastinate",
        title="Procrastinate 3.10.0",
        runtime="python",
        store="postgres",
        packages=("procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9", "uvloop==0.23.0"),
        jobs=5_000,
        singles=5_000,
        settings={"pool": 32, "concurrency": 20},
        unfinished="SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')",
        keeps="job, arguments and its events, until deleted",
        promises="durable; at least once; a killed worker's jobs run again only by a periodic task of one's own",
    ),
)
