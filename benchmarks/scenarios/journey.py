"""Journey: jobs are submitted and run at the same time, at steady shares of what the system can take."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.draining import percentiles
from benchmarks.figures import Figure, Scenario
from benchmarks.generators.steady import MEASURED
from benchmarks.stage import Stage
from benchmarks.worker_record import read_record

SHARES_PERCENT = (25, 50, 75, 100)
# Batch and connections of each way to submit, and how many jobs may be open while the capacity is measured.
DOORS = {"single POSTs": (1, 64, 1_000), "batches of 100": (100, 8, 5_000)}


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure the capacity of one server and one worker, and the waits at shares of it."""
    seconds, warm_up = (0.6, 0.2) if short else (6.0, 1.0)
    for door, (batch, connections, open_jobs_max) in DOORS.items():
        stage.begin()
        record = stage.folder / f"record-{batch}"
        stage.start_worker(BENCH_RECORD=str(record))
        stage.wait_for_workers(1)
        stage.say(f"{door}: measuring the capacity")
        window = stage.window()
        reply = stage.generate(
            "saturate",
            seconds=seconds,
            warm_up_seconds=warm_up,
            batch=batch,
            connections=connections,
            open_jobs_max=open_jobs_max,
        )
        capacity = reply["jobs"] / reply["window_seconds"]
        yield window.figure(f"{door}: capacity", capacity, "jobs/s", jobs=reply["jobs"], seconds=reply["seconds"])
        for share in SHARES_PERCENT:
            stage.say(f"{door}: {share} % of capacity")
            rate = capacity * share / 100
            waits_ms = _waits_ms(stage, record, rate, seconds, warm_up, batch, connections)
            yield from percentiles(f"{door}: submit to handler", waits_ms, 50, 95, 99, at=share)


def _waits_ms(
    stage: Stage, record: Path, rate: float, seconds: float, warm_up: float, batch: int, connections: int
) -> list[float]:
    stage.wait_until_empty()
    record.write_bytes(b"")
    stage.generate("steady", rate=rate, seconds=seconds, warm_up_seconds=warm_up, batch=batch, connections=connections)
    stage.wait_until_empty()
    return sorted(wait_ns / 1e6 for number, wait_ns in read_record(record) if number == MEASURED)


SCENARIO = Scenario(
    "journey", "How long jobs wait under a steady load, submitted and run at the same time", run, "% of capacity"
)
