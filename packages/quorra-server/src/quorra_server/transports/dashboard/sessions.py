"""Sessions of people: an API key is exchanged once for a random cookie; the key never travels again."""

import contextlib
import hashlib
import secrets

from quorra_server.domain.errors import QuorraError
from quorra_server.storage import sessions
from quorra_server.storage.database import Executor

IDLE_MS_MAX = 30 * 60 * 1000
FRESH_MS = 60 * 1000


class Sessions:
    """The sessions of one API key, which every server with that key knows; with another key all of them are over."""

    def __init__(self, executor: Executor, api_key: str) -> None:
        """Take where they are kept."""
        self._executor = executor
        self._salt = hashlib.sha256(api_key.encode()).digest()

    async def open(self) -> str:
        """Return the id of a new session: 256 random bits."""
        session_id = secrets.token_urlsafe(32)
        await sessions.open_session(self._executor, self._digest(session_id), idle_ms=IDLE_MS_MAX)
        return session_id

    async def is_open(self, session_id: str | None) -> bool:
        """Say whether a session lives, and keep it alive for another half hour.

        Who looks writes about once a minute, and may look all the same while the database takes no writes.
        """
        if not session_id:
            return False
        digest = self._digest(session_id)
        is_due = await sessions.find_session(self._executor, digest, idle_ms=IDLE_MS_MAX, fresh_ms=FRESH_MS)
        if is_due:
            with contextlib.suppress(QuorraError):
                await sessions.keep_session(self._executor, digest)
        return is_due is not None

    async def close(self, session_id: str | None) -> None:
        """End a session."""
        if session_id:
            await sessions.close_session(self._executor, self._digest(session_id))

    def _digest(self, session_id: str) -> bytes:
        # A cookie may have any bytes.
        return hashlib.sha256(self._salt + session_id.encode(errors="replace")).digest()
