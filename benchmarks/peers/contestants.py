"""Who takes part: versions, documented fast settings, and what each keeps and promises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

REDIS_PROMISE = "Redis with an append-only file flushed each second: a power cut loses up to a second of jobs"


USUAL = ("bulk", "single", "drain", "latency")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A job queue and how to measure it.

    Attributes:
        packages: What to install, pinned; nothing for ourselves.
        jobs: How many to submit in bulk and to drain, so that a run lasts a few seconds, and 30 s at most.
        singles: How many to submit one at a time.
        settings: Handed to the adapter, and printed: the fast ones of the documentation.
        unfinished: Counts the jobs that are not durably acknowledged: SQL, or Lua for Redis; `{jobs}` stands for how
            many were submitted.
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
    scenarios: tuple[str, ...] = USUAL
    door: Literal["rest", "grpc"] = "rest"

    @property
    def form(self) -> str:
        """Say what stands between the program and the store."""
        if self.runtime == "quorra":
            return "server: producers speak REST or gRPC, workers gRPC"
        return f"{'Node' if self.runtime == 'node' else 'Python'} library, straight to the store"


def _lengths(command: str, *keys: str) -> str:
    """Return a script of Redis that adds up the lengths of collections."""
    return "return " + " + ".join(f"redis.call('{command}', '{key}')" for key in keys)


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
        jobs=200_000,
        singles=30_000,
        settings={"slots": 200},
        unfinished=_QUORRA_UNFINISHED,
        keeps=_QUORRA_KEEPS,
        promises=_QUORRA_PROMISES,
        scenarios=(*USUAL, "backlog", "history"),
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
        jobs=200_000,
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
        scenarios=(*USUAL, "backlog"),
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
        scenarios=(*USUAL, "backlog", "history"),
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
        scenarios=(*USUAL, "backlog", "history"),
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
    Contestant(
        name="awa",
        title="Awa 0.6.9",
        runtime="python",
        store="postgres",
        packages=("awa-pg==0.6.9", "uvloop==0.23.0"),
        jobs=50_000,
        singles=5_000,
        chunk=5_000,
        settings={"producer_pool": 32, "pool": 20, "concurrency": 1_000},
        unfinished="SELECT {jobs} - (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches)"
        " - (SELECT coalesce(sum(pruned_completed_count), 0) FROM awa.queue_terminal_rollups)",
        keeps="a receipt of its end, for some seconds; then a count",
        promises="durable; at least once; fenced by the run; a killed worker's jobs run again after about 2 minutes",
    ),
    Contestant(
        name="oban",
        title="Oban for Python 0.7.0",
        runtime="python",
        store="postgres",
        python="3.12",
        packages=("oban==0.7.0", "uvloop==0.23.0"),
        jobs=10_000,
        singles=5_000,
        settings={"pool": 32, "limit": 50},
        unfinished="SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'executing', 'retryable', 'scheduled')",
        keeps="the job and the errors of its attempts, for a day",
        promises="durable; at least once; fenced by the time of the attempt; a killed worker's jobs run again after "
        "5 minutes",
    ),
    Contestant(
        name="chancy",
        title="Chancy 0.26.0",
        runtime="python",
        store="postgres",
        packages=("chancy==0.26.0", "psycopg[binary,pool]==3.3.9", "uvloop==0.23.0"),
        jobs=10_000,
        singles=5_000,
        settings={"pool": 32, "concurrency": 100},
        unfinished="SELECT count(*) FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying')",
        keeps="the job and the errors of its attempts, for a day",
        promises="durable; at least once; fenced by the claim; a killed worker's jobs run again after 90 to 150 s",
    ),
    Contestant(
        name="bullmq",
        title="BullMQ 6.7.0",
        runtime="node",
        store="redis",
        packages=("bullmq@6.7.0", "ioredis@6.0.0"),
        jobs=50_000,
        singles=20_000,
        settings={"worker": {"concurrency": 50}},
        unfinished=_lengths("llen", "bull:bench:wait", "bull:bench:active"),
        keeps="nothing: the job is removed, as set here",
        promises="at least once; fenced by a lock; a killed worker's jobs run again after 30 to 60 s",
    ),
    Contestant(
        name="huey",
        title="Huey 3.5.4",
        runtime="python",
        store="redis",
        packages=("huey==3.5.4", "redis==8.1.0", "hiredis==3.5.0"),
        jobs=20_000,
        singles=20_000,
        settings={"threads": 4},
        unfinished=_lengths("llen", "huey.redis.bench"),
        keeps="nothing",
        promises="at most once: a job leaves Redis before it runs, and is lost with its worker",
    ),
    Contestant(
        name="dramatiq",
        title="Dramatiq 2.2.1",
        runtime="python",
        store="redis",
        packages=("dramatiq[redis]==2.2.1", "redis==8.1.0", "hiredis==3.5.0"),
        jobs=20_000,
        singles=20_000,
        settings={"threads": 8},
        unfinished=_lengths("hlen", "dramatiq:bench.msgs"),
        keeps="nothing",
        promises="at least once; not fenced; a killed worker's jobs run again after a minute or more",
    ),
    Contestant(
        name="saq",
        title="SAQ 0.26.4",
        runtime="python",
        store="redis",
        packages=("saq[redis]==0.26.4", "redis==7.4.1", "hiredis==3.5.0", "typing-extensions", "uvloop==0.23.0"),
        jobs=10_000,
        singles=10_000,
        settings={"concurrency": 50, "operations": 64},
        unfinished=_lengths("zcard", "saq:bench:incomplete"),
        keeps="nothing: the job is deleted at once, as set here",
        promises="by default one attempt: a killed worker's job is given up after a minute, or retried where it has "
        "retries; not fenced",
    ),
    Contestant(
        name="celery",
        title="Celery 5.7.0",
        runtime="python",
        store="redis",
        packages=("celery[redis]==5.7.0", "hiredis==3.5.0"),
        jobs=10_000,
        singles=5_000,
        settings={"worker_prefetch_multiplier": 128},
        unfinished="return redis.call('llen', 'bench') + redis.call('hlen', 'unacked')",
        keeps="nothing: results are ignored, as set here",
        promises="by default at most once: acknowledged before it runs; what a killed worker had fetched waits an hour",
    ),
)
