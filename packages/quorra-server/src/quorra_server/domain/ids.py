"""Job ids: UUIDs of version 7 (RFC 9562), which sort in the order in which they were made."""

import os
import time
from array import array
from collections.abc import Iterator
from uuid import UUID, SafeUUID

# RFC 9562, 5.7: 48 bits of milliseconds, the version, 12 random bits, the variant, 62 bits. The last ones are a counter
# that starts at random in each millisecond and grows by random steps (6.2, method 2), so that jobs of one batch keep
# their order.
MILLISECONDS_SHIFT = 80
VERSION = 0x7 << 76
RANDOM_SHIFT = 64
VARIANT = 0x2 << 62
COUNTER_MAX = (1 << 62) - 1
# Random numbers of 32 bits come from the kernel so many at a time: one call for each id would cost more than the rest.
RANDOM_NUMBERS = 1_024

# What each id needs, looked up once.
_new, _set, _UNKNOWN = object.__new__, object.__setattr__, SafeUUID.unknown

_millisecond = 0
_last = 0
_greatest = 0
_random: Iterator[int] = iter(())


def new_job_id() -> UUID:
    """Return a new id, greater than every one that this process made before."""
    global _last
    now = time.time_ns() // 1_000_000
    if now > _millisecond:
        _begin(now)
    else:
        _last += 1 + _random_number()
        if _last > _greatest:
            _begin(_millisecond + 1)
    return _uuid(_last)


def _begin(millisecond: int) -> None:
    """Begin the ids of a millisecond; half of the counter is left free for them."""
    global _millisecond, _last, _greatest
    prefix = millisecond << MILLISECONDS_SHIFT | VERSION | _random_number() >> 20 << RANDOM_SHIFT | VARIANT
    _millisecond = millisecond
    _last = prefix | _random_number() << 29 | _random_number() >> 3
    _greatest = prefix | COUNTER_MAX


def _random_number() -> int:
    global _random
    drawn = next(_random, None)
    if drawn is None:
        _random = iter(array("I", os.urandom(4 * RANDOM_NUMBERS)))
        drawn = next(_random)
    return drawn


def _uuid(number: int) -> UUID:
    # UUID() looks at six spellings of an id, which takes twice as long; Python's own uuid7() makes them like this too.
    made = _new(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", _UNKNOWN)
    return made
