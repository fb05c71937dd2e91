"""Job ids: UUIDs of version 7 (RFC 9562), which sort in the order in which they were made."""

import os
import time
from uuid import UUID

# RFC 9562, 5.7: 48 bits of milliseconds, the version, 12 bits, the variant, 62 bits. The 74 free bits are one counter
# that starts at random in each millisecond (6.2, method 2), so that jobs of one batch keep their order.
COUNTER_BITS = 74
STEP_BYTES = 4
VERSION = 0x7 << 76
VARIANT = 0x2 << 62
LOW_BITS = 62
LOW_MASK = (1 << LOW_BITS) - 1

_last = 0


def new_job_id() -> UUID:
    """Return a new id, greater than every one that this process made before."""
    global _last
    counter = (time.time_ns() // 1_000_000) << COUNTER_BITS
    if counter >> COUNTER_BITS > _last >> COUNTER_BITS:
        # The top bit is left free, so that a busy millisecond does not run over.
        counter |= int.from_bytes(os.urandom(10), "big") >> 7
    else:
        counter = _last + 1 + int.from_bytes(os.urandom(STEP_BYTES), "big")
    _last = counter
    milliseconds, free = counter >> COUNTER_BITS, counter & ((1 << COUNTER_BITS) - 1)
    return UUID(int=milliseconds << 80 | VERSION | free >> LOW_BITS << 64 | VARIANT | free & LOW_MASK)
