"""Payload: submit, drain and latency as payloads grow from 100 bytes to 256 KiB."""

from collections.abc import Iterator

from benchmarks.draining import drain, fill, percentiles, probe
from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage

SIZES_BYTES = (100, 1_024, 10_240, 65_536, 262_144)
BATCH_BYTES_MAX = 1_000_000
CONNECTIONS = 4


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure each size with as many jobs as make a bounded amount of data."""
    data_bytes = 8_000_000 if short else 256_000_000
    for size in (SIZES_BYTES[0], SIZES_BYTES[2]) if short else SIZES_BYTES:
        count = min(data_bytes // size, 10_000 if short else 100_000)
        stage.begin()
        waits_ms = probe(stage, 20 if short else 200, size_bytes=size)
        yield from percentiles("latency", waits_ms, 50, 99, at=size)
        yield _submit(stage, count, size)
        stage.begin()
        fill(stage, count, size_bytes=size)
        yield drain(stage, "drain, 1 worker", count, at=size)


def _submit(stage: Stage, count: int, size: int) -> Figure:
    stage.say(f"submitting {count:,} payloads of {size:,} bytes")
    batch = min(1_000, max(1, BATCH_BYTES_MAX // size))
    window = stage.window()
    reply = stage.generate("rest", count=count, batch=batch, connections=CONNECTIONS, size_bytes=size)
    rate = reply["jobs"] / reply["seconds"]
    return window.figure("submit, REST batches", rate, "jobs/s", jobs=reply["jobs"], seconds=reply["seconds"], at=size)


SCENARIO = Scenario("payload", "What large payloads cost", run, "bytes of payload")
