"""Whether the database can do its part."""

from typing import NamedTuple

from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

CHECK_HEALTH = statement("check_health")


class DatabaseHealth(NamedTuple):
    """What the database says of itself.

    Attributes:
        version: Its schema's.
        serves: The oldest schema version whose servers work on it.
    """

    is_standby: bool
    version: int
    serves: int


async def check_health(executor: Executor) -> DatabaseHealth:
    """Ask the database how it is."""
    return DatabaseHealth(*(await executor.fetch(CHECK_HEALTH))[0])
