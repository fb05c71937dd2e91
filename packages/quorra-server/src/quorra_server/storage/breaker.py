"""The breaker: while PostgreSQL refuses, one caller a second asks it; the others are told at once to come back."""

import time
from collections.abc import Callable

import structlog

from quorra_server.domain.errors import StorageUnavailable

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 1.0


class Breaker:
    """Closed until something trips it; closed again by the first success."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the clock to count pauses with."""
        self._clock = clock
        self._reason = ""
        self._opened_at = 0.0
        self._next_try_at = 0.0
        self._next_word_at = 0.0
        self.is_open = False

    def admit(self) -> None:
        """Let one caller through in each pause, and turn the others away.

        Raises:
            StorageUnavailable: It is not time to try again; nothing was sent.
        """
        now = self._clock()
        if not self.is_open:
            return
        if now < self._next_try_at:
            raise StorageUnavailable(
                f"PostgreSQL does not take requests now ({self._reason}). Nothing was changed; try again shortly.",
                retry_after_seconds=PAUSE_SECONDS,
            )
        self._next_try_at = now + PAUSE_SECONDS

    def trip(self, error: BaseException) -> None:
        """Open, or stay open for another pause, because of an error."""
        now = self._clock()
        self._reason = type(error).__name__
        if not self.is_open:
            self.is_open = True
            self._opened_at = now
        self._next_try_at = now + PAUSE_SECONDS
        self.say("database_refuses", error)

    def say(self, event: str, error: BaseException) -> None:
        """Log an error of the database, at most one a pause."""
        now = self._clock()
        if now >= self._next_word_at:
            self._next_word_at = now + PAUSE_SECONDS
            log.warning(event, error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Let everybody through again."""
        if self.is_open:
            self.is_open = False
            log.info("database_back", away_seconds=round(self._clock() - self._opened_at, 3))
