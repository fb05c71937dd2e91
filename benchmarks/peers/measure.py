"""The scenarios, each measured the same way for everybody."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from benchmarks.peers.adapters import record
from benchmarks.peers.entrant import Entrant, Failed
from benchmarks.peers.ground import busy_seconds, cpu_seconds

BULK_CALLS = 4
SINGLE_CALLS = 64
LATENCY_JOBS = 200
LATENCY_WARM_UP = 50
MANY_JOBS = 1_000_000
# How many of the many waiting jobs are timed.
FIRST_JOBS = 50_000
DRAIN_SECONDS_MAX = 60.0
MANY_SECONDS_MAX = 180.0
LOOK_SECONDS = 0.005
SHORT_JOBS = 300
SHORT_LATENCY_JOBS = 10
SHORT_MANY_JOBS = 1_000
PARTIES = ("worker us", "server us", "store us")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        costs: CPU by party and write-ahead log, in microseconds and bytes a job; and how much of the machine processes
            took that have no part in the measurement, this program being one.
    """

    scenario: str
    value: float
    unit: str
    costs: dict[str, float]


def bulk(entrant: Entrant, short: bool) -> Iterator[Figure]:
    """Submit with the call for many, `BULK_CALLS` calls at a time from one process."""
    with entrant.ready():
        yield Figure("bulk", _fill(entrant, _jobs(entrant, short)), "jobs/s", {})


def single(entrant: Entrant, short: bool) -> Iterator[Figure]:
    """Submit one job a call, `SINGLE_CALLS` calls at a time from one process."""
    count = SHORT_JOBS if short else entrant.contestant.singles
    with entrant.ready():
        yield Figure("single", float(entrant.call("single", count, SINGLE_CALLS)["rate"]), "jobs/s", {})


def drain(entrant: Entrant, short: bool) -> Iterator[Figure]:
    """Work off a backlog with one worker process, then another with two."""
    count = _jobs(entrant, short)
    for workers in (1, 2):
        with entrant.ready():
            _fill(entrant, count)
            if entrant.contestant.store == "postgres":
                entrant.ground.settle()
            yield _drain(entrant, count, workers)


def latency(entrant: Entrant, short: bool) -> Iterator[Figure]:
    """From just before the submission to the first line of the handler, one job at a time, on an idle system."""
    count, warm_up = (SHORT_LATENCY_JOBS, 1) if short else (LATENCY_JOBS, LATENCY_WARM_UP)
    with entrant.ready(), entrant.workers(1, PEER_RECORD_AT_ONCE="1"):
        sent = entrant.call("latency", warm_up + count)["sent"]
        began = dict(record.entries(entrant.record))
    waits = sorted((began[number] - sent[number]) / 1e6 for number in range(warm_up, warm_up + count))
    yield Figure("latency p50", statistics.median(waits), "ms", {})
    yield Figure("latency p99", waits[int(len(waits) * 0.99)], "ms", {})


def backlog(entrant: Entrant, short: bool) -> Iterator[Figure]:
    """Work with one process on the first jobs of a million that wait."""
    count, first = (SHORT_MANY_JOBS, SHORT_JOBS) if short else (MANY_JOBS, FIRST_JOBS)
    with entrant.ready():
        _fill(entrant, count)
        entrant.ground.settle()
        yield Figure("drain, 1 M waiting", _start_rate(entrant, first), "jobs/s", {})


def history(entrant: Entrant, short: bool) -> Iterator[Figure]:
    """Work off a backlog with one process, with what is kept of a million jobs that have succeeded."""
    count, many = _jobs(entrant, short), SHORT_MANY_JOBS if short else MANY_JOBS
    with entrant.ready():
        _fill(entrant, many)
        entrant.ground.settle()
        with entrant.workers(2):
            _wait_for(entrant, many, time.monotonic() + MANY_SECONDS_MAX)
            _wait_until_acknowledged(entrant, many, time.monotonic() + DRAIN_SECONDS_MAX)
        entrant.record.unlink()
        _fill(entrant, count)
        entrant.ground.settle()
        yield Figure("drain, 1 M finished", _start_rate(entrant, count), "jobs/s", {})


SCENARIOS: dict[str, Callable[[Entrant, bool], Iterator[Figure]]] = {
    "bulk": bulk,
    "single": single,
    "drain": drain,
    "latency": latency,
    "backlog": backlog,
    "history": history,
}
# The others take minutes.
DEFAULT = ("bulk", "single", "drain", "latency")


def _jobs(entrant: Entrant, short: bool) -> int:
    return SHORT_JOBS if short else entrant.contestant.jobs


def _fill(entrant: Entrant, count: int) -> float:
    return float(entrant.call("bulk", count, BULK_CALLS, entrant.contestant.chunk)["rate"])


def _drain(entrant: Entrant, count: int, workers: int) -> Figure:
    """Take the time from the first start of a handler until nothing is unacknowledged any more."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    with entrant.workers(workers) as processes:
        _wait_for(entrant, 1, deadline)
        before, busy, looked = _costs(entrant, processes), busy_seconds(), time.monotonic()
        left = count - record.count(entrant.record)
        _wait_for(entrant, count, deadline)
        _wait_until_acknowledged(entrant, count, deadline)
        ended = time.monotonic_ns()
        after, busy = _costs(entrant, processes), busy_seconds() - busy
        room = (time.monotonic() - looked) * (psutil.cpu_count() or 1)
    entries = record.entries(entrant.record)
    ran = len({number for number, _ in entries})
    if ran != count:
        raise Failed(f"{count} jobs were submitted, and {ran} ran")
    seconds = (ended - min(moment for _, moment in entries)) / 1e9
    # In short mode all may have run before the first look.
    costs = {party: (after[party] - before[party]) / left for party in before} if left else {}
    if left:
        own = sum(costs[party] for party in PARTIES) * left / 1e6
        costs["others %"] = max(0.0, (busy - own) / room * 100)
    return Figure(f"drain, {workers} worker{'s' if workers > 1 else ''}", count / seconds, "jobs/s", costs)


def _start_rate(entrant: Entrant, count: int) -> float:
    """Return how fast one worker process begins the first jobs; asking a full store what is left would be felt."""
    with entrant.workers(1):
        _wait_for(entrant, count, time.monotonic() + DRAIN_SECONDS_MAX)
    moments = sorted(moment for _, moment in record.entries(entrant.record))[:count]
    return (count - 1) / (moments[-1] - moments[0]) * 1e9


def _wait_for(entrant: Entrant, entries: int, deadline: float) -> None:
    while record.count(entrant.record) < entries:
        if time.monotonic() > deadline:
            ran = record.count(entrant.record)
            raise Failed(f"{ran} jobs ran within {DRAIN_SECONDS_MAX:g} s: {entrant.log.read_text()[-800:]}")
        time.sleep(LOOK_SECONDS)


def _wait_until_acknowledged(entrant: Entrant, count: int, deadline: float) -> None:
    while unfinished := entrant.unfinished(count):
        if time.monotonic() > deadline:
            raise Failed(f"{unfinished} jobs ran, but are not acknowledged")
        time.sleep(LOOK_SECONDS)


def _costs(entrant: Entrant, workers: list[psutil.Process]) -> dict[str, float]:
    """Return what each party has used up so far."""
    store = entrant.ground.cost(entrant.contestant.store)
    return {
        "worker us": sum(cpu_seconds(process) for process in workers) * 1e6,
        "server us": entrant.server_cpu_seconds() * 1e6,
        "store us": store.cpu_seconds * 1e6,
        "WAL bytes": store.wal_bytes,
    }
