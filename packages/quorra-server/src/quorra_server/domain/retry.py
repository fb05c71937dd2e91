"""Back-off: how long a job waits after a failed run.

The delay itself is computed by `quorra.retry_delay` in SQL, where the attempt is charged.
"""

from dataclasses import dataclass
from typing import Literal

BackoffKind = Literal["exponential", "linear", "fixed"]


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
    max_seconds: float = 3600.0
    jitter: float = 0.0
