"""Lease ids as they travel: one opaque string for each member of a lease batch."""

from functools import lru_cache
from uuid import UUID

from quorra_server.domain.errors import InvalidRequest
from quorra_server.domain.job import LeaseId

PARTS = 4
# Members of a batch come back together, and share their secret.
SECRETS_CACHED = 4_096


def lease_id_tail(batch: int, secret: UUID) -> str:
    """Return the part that all lease ids of a batch share; computing it once a batch is what makes encoding cheap."""
    return f".{batch:x}.{secret.hex}"


def encode_lease_id(ordinal: int, job_id: UUID, tail: str) -> str:
    """Return the lease id of one member of a batch."""
    return f"{ordinal:x}.{job_id.hex}{tail}"


def decode_lease_id(text: str) -> LeaseId:
    """Return the parts of a lease id.

    Raises:
        InvalidRequest: It is not one that this server made.
    """
    parts = text.split(".")
    if len(parts) == PARTS:
        ordinal, job_id, batch, secret = parts
        try:
            lease = LeaseId(int(batch, 16), int(ordinal, 16), UUID(job_id), _secret(secret))
        except ValueError:
            pass
        else:
            if 0 < lease.ordinal < 2**31 and 0 <= lease.batch < 2**63:
                return lease
    raise InvalidRequest(
        "lease_id is not a lease id of this queue; send back the one that came with the job.", field="lease_id"
    )


@lru_cache(SECRETS_CACHED)
def _secret(text: str) -> UUID:
    return UUID(text)


def text_of(lease: LeaseId) -> str:
    """Return the lease id of a lease."""
    return encode_lease_id(lease.ordinal, lease.job_id, lease_id_tail(lease.batch, lease.secret))
