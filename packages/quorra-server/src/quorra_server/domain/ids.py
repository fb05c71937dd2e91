"""Job ids: UUIDs of version 7 (RFC 9562), which sort in the order in which they were made."""

import os
import time
from io import BytesIO
from uuid import UUID

# RFC 9562, 5.7: 48 bits of milliseconds, the version, 12 bits, the variant, 62 bits. The 74 free bits are one counter
# that starts at random in each millisecond (6.2, method 2), so that jobs of one batch keep their order.
COUNTER_BITS = 74
COUNTER_MASK = (1 << COUNTER_BITS) - 1
START_BYTES = 10
STEP_BYTES = 4
VERSION = 0x7 << 76
VARIANT = 0x2 << 62
LOW_BITS = 62
LOW_MASK = (1 << LOW_BITS) - 1
# Random bytes come from the kernel so many at a time: one call for each id would cost more than the rest of it.
RANDOM_BYTES = 4096

_last = 0
_random = BytesIO()


def new_job_id() -> UUID:
    """Return a new id, greater than every one that this process made before."""
    global _last
    counter = (time.time_ns() // 1_000_000) << COUNTER_BITS
    if counter > _last:
        # The top bit is left free, so that a busy millisecond does not run over.
        counter |= _random_number(START_BYTES) >> 7
    else:
        counter = _last + 1 + _random_number(STEP_BYTES)
    _last = counter
    free = counter & COUNTER_MASK
    return UUID(int=counter >> COUNTER_BITS << 80 | VERSION | free >> LOW_BITS << 64 | VARIANT | free & LOW_MASK)


def _random_number(size: int) -> int:
    global _random
    drawn = _random.read(size)
    if len(drawn) < size:
        _random = BytesIO(os.urandom(RANDOM_BYTES))
        drawn = _random.read(size)
    return int.from_bytes(drawn, "big")
