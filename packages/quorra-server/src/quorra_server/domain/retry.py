"""Back-off: how long a job waits after a failed run.

`quorra.retry_delay` is the same formula in SQL, where a settle needs it; a test holds them together.
"""

from dataclasses import dataclass
from typing import Literal

BackoffKind = Literal["exponential", "linear", "fixed"]

# 2^12 s is past the longest default delay; capping the exponent keeps the power from overflowing.
EXPONENT_MAX = 12
DELAY_SECONDS_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """A rule for the delay before the next run.

    Attributes:
        kind: `exponential`: base * 2^(attempts-1); `linear`: base * attempts; `fixed`: base.
        base_seconds: Greater than 0; 2 by default.
        max_seconds: No delay is longer; 3600 by default.
        jitter: Share of the delay that is random, 0 (the default) to 1; a jittered delay is only shorter.
    """

    kind: BackoffKind = "exponential"
    base_seconds: float = 2.0
    max_seconds: float = DELAY_SECONDS_MAX
    jitter: float = 0.0

    def delay_seconds(self, attempts: int) -> float:
        """Return the delay after `attempts` started runs, before jitter; total for every `attempts >= 0`."""
        if self.kind == "fixed":
            delay = self.base_seconds
        elif self.kind == "linear":
            delay = self.base_seconds * attempts
        else:
            delay = self.base_seconds * 2.0 ** (min(attempts, EXPONENT_MAX) - 1)
        return min(delay, self.max_seconds)


DEFAULT_BACKOFF = Backoff()
