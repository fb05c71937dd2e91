"""Parts: where one job's microseconds go, each part by itself, and beside it the floor."""

from collections.abc import Iterator

from benchmarks.figures import Figure, Scenario
from benchmarks.stage import Stage

BATCH = 500
UNITS = {"PostgreSQL": "us/job", "driver": "us/job", "waiting": "us/job", "WAL": "bytes/job"}


def run(stage: Stage, short: bool) -> Iterator[Figure]:
    """Measure each statement of a job's life over one connection, then each part that is Python's."""
    stage.begin(servers=0)
    stage.say("statements one by one")
    reply = stage.generate("apart", count=2_000 if short else 100_000, batch=BATCH)
    for statement, costs in reply["costs"].items():
        floors = reply["floors"].get(statement, {})
        for of, unit in UNITS.items():
            yield Figure(f"{of}: {statement}", costs[of], unit)
            if of in floors:
                yield Figure(f"{of}: {statement}, floor", floors[of], unit)
    stage.say("Python's parts")
    for part, (cost, floor) in stage.generate("python", repeats=50 if short else 200)["costs"].items():
        yield Figure(part, cost, "us/job")
        yield Figure(f"{part}, floor", floor, "us/job")


SCENARIO = Scenario("parts", "Where one job's time goes, part by part, with nothing else at work", run)
