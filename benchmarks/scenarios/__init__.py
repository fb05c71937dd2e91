"""The scenarios, in the order in which the suite runs them."""

from benchmarks.figures import Scenario
from benchmarks.scenarios import (
    backlog,
    drain,
    history,
    idle,
    journey,
    latency,
    parts,
    payload,
    queues,
    recovery,
    servers,
    snapshot,
    storage,
    submit,
    workers,
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        storage.SCENARIO,
        submit.SCENARIO,
        drain.SCENARIO,
        journey.SCENARIO,
        latency.SCENARIO,
        parts.SCENARIO,
        backlog.SCENARIO,
        history.SCENARIO,
        recovery.SCENARIO,
        idle.SCENARIO,
        queues.SCENARIO,
        snapshot.SCENARIO,
        payload.SCENARIO,
        workers.SCENARIO,
        servers.SCENARIO,
    )
}
