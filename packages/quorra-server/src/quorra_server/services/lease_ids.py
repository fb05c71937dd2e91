"""Lease ids as they travel: one opaque string for each member of a lease batch."""

import re
from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

from quorra_server.domain.errors import InvalidRequest
from quorra_server.domain.job import LeaseId

# The first parts of many lease ids, each with a space behind it; and the last part: batch and secret.
ORDINALS = re.compile(r"([1-9a-f][0-9a-f]{0,6} )*")
TAIL = re.compile(r"[0-9a-f]{1,16}\.[0-9a-f]{32}")
JOB_DIGITS = {32}
# What PostgreSQL takes as a number.
BATCH_MAX = 2**63 - 1
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
    leases = decode_lease_ids([text])
    if leases is None:
        raise InvalidRequest(
            "lease_id is not a lease id of this queue; send back the one that came with the job.", field="lease_id"
        )
    return leases[0]


def decode_lease_ids(texts: Sequence[str]) -> list[LeaseId] | None:
    """Return the parts of many lease ids, or None if one of them is not what this server makes.

    They are looked at together: one by one takes five times as long.
    """
    try:
        ordinals, jobs, tails = zip(*[text.split(".", 2) for text in texts], strict=True)
        digits = "".join(jobs)
        # Reading and writing digits is the quickest look at each of them that there is.
        are_jobs = set(map(len, jobs)) == JOB_DIGITS and bytes.fromhex(digits).hex() == digits
        if not are_jobs or not ORDINALS.fullmatch(" ".join((*ordinals, ""))):
            return None
        batches, secrets = zip(*map(_batch_and_secret, tails), strict=True)
        numbers = [int(ordinal, 16) for ordinal in ordinals]
        return list(map(LeaseId._make, zip(batches, numbers, jobs, secrets, strict=True)))
    except ValueError:
        return None


@lru_cache(TAILS_CACHED)
def _batch_and_secret(tail: str) -> tuple[int, UUID]:
    """Return what all lease ids of a batch share; ValueError if it has another shape."""
    batch_text, _, secret = tail.partition(".")
    batch = int(batch_text, 16)
    if batch > BATCH_MAX or not TAIL.fullmatch(tail):
        raise ValueError(tail)
    return batch, UUID(secret)


def text_of(lease: LeaseId) -> str:
    """Return the lease id of a lease."""
    return encode_lease_id(lease.ordinal, lease.job_hex, lease_id_tail(lease.batch, lease.secret))
