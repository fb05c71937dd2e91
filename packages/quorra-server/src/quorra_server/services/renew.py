"""Renewing: a worker's heartbeat extends its leases and learns which of them are over."""

from collections.abc import Sequence
from uuid import UUID

from quorra_server.domain.job import EndedLease, LeaseId
from quorra_server.domain.states import OutcomeKind
from quorra_server.storage import leases
from quorra_server.storage.database import Pool

LOST = "lost"
CANCELLED = "cancelled"


async def renew_leases(pool: Pool, principal: str, held: Sequence[LeaseId], lease_ms: int) -> list[EndedLease]:
    """Extend the leases that live and return those that are over.

    One small write for each lease batch, whatever the number of jobs. A lease whose time is over is not brought back,
    even if nobody took its job yet.

    Raises:
        StorageUnavailable: Nothing was renewed; the worker goes on until its own deadline and tries again.
    """
    if not held:
        return []
    secrets: dict[int, UUID] = {lease.batch: lease.secret for lease in held}
    alive = await leases.renew_leases(pool, principal, secrets, lease_ms)
    in_alive_batches = [lease for lease in held if lease.batch in alive and lease.secret == secrets[lease.batch]]
    outcomes = await leases.find_outcomes(pool, in_alive_batches) if in_alive_batches else {}
    kept = {lease for lease in in_alive_batches if lease[:2] not in outcomes}
    return [EndedLease(lease, _reason(outcomes.get(lease[:2]))) for lease in held if lease not in kept]


def _reason(outcome: OutcomeKind | None) -> str:
    return CANCELLED if outcome is OutcomeKind.CANCELLED else LOST
