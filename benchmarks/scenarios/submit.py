"""Submit: durable single POSTs from many connections, and batches through every door."""

from collections.abc import Iterator

from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage

SINGLE_CONNECTIONS = 64
BULK_CONNECTIONS = 4
BATCH = 1_000
DOORS = {
    "rest": f"REST batches of {BATCH:,}",
    "ndjson": "NDJSON imports",
    "grpc": f"gRPC batches of {BATCH:,}",
    "sdk": f"the SDK's submit_many, {BATCH:,} a call",
}


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure each door on an empty database, and the floor of a single POST."""
    single, bulk = (1_000, 8_000) if short else (40_000, 200_000)
    stage.begin()
    for connections in (1, SINGLE_CONNECTIONS):
        count = single if connections > 1 else single // 20
        what = f"single POST, {connections} connection{'s' if connections > 1 else ''}"
        yield _measure(stage, what, "requests/s", "single", count=count, connections=connections)
    for door, what in DOORS.items():
        stage.begin()
        batch = {} if door == "ndjson" else {"batch": BATCH}
        what = f"{what}, {BULK_CONNECTIONS} connections"
        yield _measure(stage, what, "jobs/s", door, count=bulk, connections=BULK_CONNECTIONS, **batch)
    stage.begin_bare()
    what = f"the floor of a single POST: one row, {SINGLE_CONNECTIONS} connections"
    yield _measure(stage, what, "requests/s", "single", count=single, connections=SINGLE_CONNECTIONS)


def _measure(stage: Stage, what: str, unit: str, door: str, **options: int) -> Figure:
    stage.say(f"submitting: {what}")
    stage.generate(door, **{**options, "count": min(options["count"], 4 * BATCH)})
    window = stage.window()
    reply = stage.generate(door, **options)
    jobs, seconds = reply["jobs"], reply["seconds"]
    return window.figure(what, jobs / seconds, unit, jobs=jobs, seconds=seconds)


SCENARIO = Scenario("submit", "How many jobs one server takes in, each durable before its answer", run)
