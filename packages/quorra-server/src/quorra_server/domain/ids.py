"""Job ids: UUIDs of version 7 (RFC 9562), which sort by the time they were made."""

import os
import time
from uuid import UUID

# RFC 9562, 5.7: 48 bits of milliseconds, the version, 12 random bits, the variant, 62 random bits.
VERSION_BITS = 0x7 << 76
VARIANT_BITS = 0x2 << 62
RANDOM_A_MASK = 0xFFF
RANDOM_B_MASK = (1 << 62) - 1


def new_job_id() -> UUID:
    """Return a new id; ids of different milliseconds sort by time."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    return UUID(
        int=milliseconds << 80
        | VERSION_BITS
        | (random & RANDOM_A_MASK) << 64
        | VARIANT_BITS
        | (random >> 16) & RANDOM_B_MASK
    )
