"""The kinds of faults: one short function each, which hurts, waits, mends, and returns how often it had an effect.

A kind's name begins with what it hurts; two faults of one name's beginning never happen at the same time.
"""

from tests.faults.kinds import clients, clocks, hints, network, postgres, servers, workers
from tests.faults.kinds.registry import KINDS, Kind
from tests.faults.stage import Stage
from tests.support.faketime import faketime

__all__ = ["KINDS", "Kind", "unavailable", "clients", "clocks", "hints", "network", "postgres", "servers", "workers"]


def unavailable(stage: Stage) -> dict[str, str]:
    """Return the kinds that this machine cannot do, each with why."""
    reasons = {}
    if not stage.postgres.is_on_small_disk:
        reasons["pg.disk_full"] = "no small disk could be mounted"
    if stage.pgbouncer is None:
        reasons["pgbouncer.kill"] = reasons["pgbouncer.stop"] = "there is no PgBouncer"
    if faketime() is None:
        reasons["server.clock"] = reasons["worker.clock"] = "there is no libfaketime"
    return reasons
