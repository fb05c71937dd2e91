"""Recovery: a worker is killed with SIGKILL, and another one that waits runs its jobs again."""

import time
from collections.abc import Iterator
from pathlib import Path

from quorra_worker_sdk import Client, NewJob, Retry

from benchmarks.figures import Figure, Scenario
from benchmarks.load import API_KEY, QUEUE
from benchmarks.stage import LOOK_SECONDS, Stage
from benchmarks.worker_record import percentile, read_record

JOBS = 20
SECONDS_MAX = 60.0


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Kill workers at several moments between two heartbeats."""
    lease_seconds, kills = (2, 1) if short else (5, 5)
    stage.begin()
    waits: list[float] = []
    for number in range(kills):
        stage.say(f"killing a worker, {number + 1} of {kills}")
        # A third of the lease lies between two heartbeats.
        waits += _kill(stage, number, lease_seconds, phase_seconds=lease_seconds / 3 * number / kills)
    waits.sort()
    what = f"from kill to running again, lease of {lease_seconds} s"
    yield Figure(f"{what}, p50", percentile(waits, 50), "s")
    yield Figure(f"{what}, p99", percentile(waits, 99), "s")
    yield Figure("beyond the lease, p99", percentile(waits, 99) - lease_seconds, "s")


def _kill(stage: Stage, number: int, lease_seconds: int, phase_seconds: float) -> list[float]:
    """Return after how many seconds each job of a killed worker ran again."""
    first, second = stage.folder / f"first-{number}", stage.folder / f"second-{number}"
    _submit(stage)
    settings = {"BENCH_LEASE_SECONDS": str(lease_seconds), "BENCH_SLOTS": str(JOBS)}
    victim = stage.start_worker(BENCH_RECORD=str(first), BENCH_HOLDS="yes", **settings)
    _wait_for_runs(first)
    stage.start_worker(BENCH_RECORD=str(second), **settings)
    stage.wait_for_workers(2 * (number + 1))
    time.sleep(phase_seconds)
    victim.kill()
    killed = time.monotonic_ns()
    _wait_for_runs(second)
    stage.stop_workers()
    return [(moment - killed) / 1e9 for _, moment in read_record(second)]


def _submit(stage: Stage) -> None:
    # A run that dies with its worker is a failed run: without this it would also wait out its back-off.
    at_once = Retry(backoff="fixed", base_seconds=0.001)
    with Client(stage.servers[0].grpc_address, api_key=API_KEY) as client:
        client.submit_many(NewJob("hold", {"id": number}, queue=QUEUE, retry=at_once) for number in range(JOBS))


def _wait_for_runs(record: Path) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while len(read_record(record)) < JOBS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(read_record(record))} of {JOBS} jobs ran within {SECONDS_MAX:g} s")
        time.sleep(LOOK_SECONDS)


SCENARIO = Scenario("recovery", "How soon the jobs of a killed worker run again", run)
