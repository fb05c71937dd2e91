"""Lease ids as they travel: one opaque string for each member of a lease batch."""

import re
from functools import lru_cache
from uuid import UUID

from quorra_server.domain.errors import InvalidRequest
from quorra_server.domain.job import LeaseId

# Ordinal, job, and the tail: batch and secret.
SHAPE = re.compile(r"([0-9a-f]{1,8})\.([0-9a-f]{32})\.([0-9a-f]{1,16}\.[0-9a-f]{32})")
# Members of a batch come back together, and share the end of their lease ids.
TAILS_CACHED = 4_096


def lease_id_tail(batch: int, secret: UUID) -> str:
    """Return the part that all lease ids of a batch share; computing it once a batch is what makes encoding cheap."""
    return f"{batch:x}.{secret.hex}"


def encode_lease_id(ordinal: int, job_hex: str, tail: str) -> str:
    """Return the lease id of one member of a batch."""
    return f"{ordinal:x}.{job_hex}.{tail}"


def decode_lease_id(text: str) -> LeaseId:
    """Return the parts of a lease id.

    Raises:
        InvalidRequest: It is not one that this server made.
    """
    shaped = SHAPE.fullmatch(text)
    if shaped is not None:
        ordinal_text, job_hex, tail = shaped.groups()
        ordinal = int(ordinal_text, 16)
        batch, secret = _batch_and_secret(tail)
        if 0 < ordinal < 2**31 and batch < 2**63:
            return LeaseId(batch, ordinal, job_hex, secret)
    raise InvalidRequest(
        "lease_id is not a lease id of this queue; send back the one that came with the job.", field="lease_id"
    )


@lru_cache(TAILS_CACHED)
def _batch_and_secret(tail: str) -> tuple[int, UUID]:
    """Return what all lease ids of a batch share."""
    batch_text, _, secret = tail.partition(".")
    return int(batch_text, 16), UUID(secret)


def text_of(lease: LeaseId) -> str:
    """Return the lease id of a lease."""
    return encode_lease_id(lease.ordinal, lease.job_hex, lease_id_tail(lease.batch, lease.secret))
