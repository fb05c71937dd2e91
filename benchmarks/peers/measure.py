"""The scenarios, each measured the same way for everybody."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from benchmarks.peers.adapters import record
from benchmarks.peers.entrant import Entrant, Failed
from benchmarks.peers.ground import cpu_seconds

BULK_CALLS = 4
SINGLE_CALLS = 64
LATENCY_JOBS = 300
LATENCY_WARM_UP = 20
DRAIN_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.005
SHORT_JOBS = 300
SHORT_LATENCY_JOBS = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; `costs` has CPU by party and WAL, in microseconds and bytes a job."""

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
    count, warm_up = (SHORT_LATENCY_JOBS, 0) if short else (LATENCY_JOBS, LATENCY_WARM_UP)
    with entrant.ready(), entrant.workers(1, PEER_RECORD_AT_ONCE="1") as (worker,):
        _wait_until_calm(worker)
        sent = entrant.call("latency", warm_up + count)["sent"]
        began = dict(record.entries(entrant.record))
    waits = sorted((began[number] - sent[number]) / 1e6 for number in range(warm_up, warm_up + count))
    yield Figure("latency p50", statistics.median(waits), "ms", {})
    yield Figure("latency p99", waits[int(len(waits) * 0.99)], "ms", {})


SCENARIOS: dict[str, Callable[[Entrant, bool], Iterator[Figure]]] = {
    "bulk": bulk,
    "single": single,
    "drain": drain,
    "latency": latency,
}


def _jobs(entrant: Entrant, short: bool) -> int:
    return SHORT_JOBS if short else entrant.contestant.jobs


def _fill(entrant: Entrant, count: int) -> float:
    return float(entrant.call("bulk", count, BULK_CALLS, entrant.contestant.chunk)["rate"])


def _drain(entrant: Entrant, count: int, workers: int) -> Figure:
    """Take the time from the first start of a handler until nothing is unacknowledged any more."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    with entrant.workers(workers) as processes:
        _wait_for(entrant, 1, deadline)
        before = _costs(entrant, processes)
        left = count - record.count(entrant.record)
        _wait_for(entrant, count, deadline)
        while entrant.unfinished():
            if time.monotonic() > deadline:
                raise Failed(f"{entrant.unfinished()} jobs are not acknowledged after {DRAIN_SECONDS_MAX:g} s")
            time.sleep(LOOK_SECONDS)
        ended = time.monotonic_ns()
        after = _costs(entrant, processes)
    entries = record.entries(entrant.record)
    ran = len({number for number, _ in entries})
    if ran != count:
        raise Failed(f"{count} jobs were submitted, and {ran} ran")
    seconds = (ended - min(moment for _, moment in entries)) / 1e9
    # In short mode all may have run before the first look.
    costs = {party: (after[party] - before[party]) / left for party in before} if left else {}
    return Figure(f"drain, {workers} worker{'s' if workers > 1 else ''}", count / seconds, "jobs/s", costs)


def _wait_for(entrant: Entrant, entries: int, deadline: float) -> None:
    while record.count(entrant.record) < entries:
        if time.monotonic() > deadline:
            ran = record.count(entrant.record)
            raise Failed(f"{ran} jobs ran within {DRAIN_SECONDS_MAX:g} s: {entrant.log.read_text()[-800:]}")
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


def _wait_until_calm(worker: psutil.Process) -> None:
    """Return when a worker has started: when it uses no CPU any more."""
    time.sleep(1)
    before, now = -1.0, cpu_seconds(worker)
    while now - before > 0.02:
        time.sleep(0.5)
        before, now = now, cpu_seconds(worker)
