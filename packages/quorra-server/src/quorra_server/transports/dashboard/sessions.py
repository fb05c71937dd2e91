"""Sessions of people: an API key is exchanged once for a random cookie; the key never travels again."""

import secrets
import time

IDLE_SECONDS_MAX = 30 * 60
SESSIONS_MAX = 10_000


class Sessions:
    """The sessions of one server process."""

    def __init__(self) -> None:
        """Start with none."""
        self._last_used: dict[str, float] = {}

    def open(self) -> str:
        """Return the id of a new session: 256 random bits."""
        self._forget_idle()
        session_id = secrets.token_urlsafe(32)
        self._last_used[session_id] = time.monotonic()
        return session_id

    def is_open(self, session_id: str | None) -> bool:
        """Say whether a session lives, and keep it alive for another half hour."""
        last_used = self._last_used.get(session_id or "")
        if last_used is None or time.monotonic() - last_used > IDLE_SECONDS_MAX:
            return False
        self._last_used[session_id or ""] = time.monotonic()
        return True

    def close(self, session_id: str | None) -> None:
        """End a session."""
        self._last_used.pop(session_id or "", None)

    def _forget_idle(self) -> None:
        now = time.monotonic()
        living = {key: used for key, used in self._last_used.items() if now - used <= IDLE_SECONDS_MAX}
        newest = sorted(living.items(), key=lambda entry: entry[1])[-SESSIONS_MAX:]
        self._last_used = dict(newest)
