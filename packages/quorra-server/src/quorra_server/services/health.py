"""Readiness: whether this server can do its work now, and if not, why."""

import asyncio
from dataclasses import dataclass

from quorra_server.domain.errors import QuorraError
from quorra_server.storage.database import Pool
from quorra_server.storage.health import check_health
from quorra_server.storage.migrate import needed_version

CHECK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the server is ready, and what stands in the way."""

    ready: bool
    problems: list[str]


class HealthService:
    """Knows whether the server is draining, and asks the database."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool to ask through."""
        self._pool = pool
        self._needed = needed_version()
        self.is_draining = False

    async def check(self) -> Readiness:
        """Say whether the server is ready; takes two seconds at most."""
        problems = ["The server is shutting down."] if self.is_draining else []
        try:
            health = await asyncio.wait_for(check_health(self._pool), CHECK_SECONDS)
        except QuorraError as error:
            problems.append(error.message)
        except TimeoutError:
            problems.append(f"PostgreSQL did not answer within {CHECK_SECONDS:g} s.")
        else:
            if health.is_standby:
                problems.append("PostgreSQL is a standby and takes no writes.")
            if health.version < self._needed:
                problems.append(
                    f"The schema has version {health.version}, needed is {self._needed}: run `quorra-server migrate`."
                )
            if health.serves > self._needed:
                problems.append(
                    f"The schema has version {health.version} and serves servers of version {health.serves} and later; "
                    f"this one is of version {self._needed}: replace it by a newer one."
                )
        return Readiness(ready=not problems, problems=problems)
