"""What PostgreSQL knows of our tables: of their sizes, on which cached plans rest, and of who keeps deleted rows."""

from quorra_server.storage.database import Executor, Pool, column
from quorra_server.storage.statements import statement

LIST_OUTGROWN = statement("list_outgrown")
FIND_OLDEST_SNAPSHOT = statement("find_oldest_snapshot")


async def analyze_outgrown(pool: Pool) -> list[str]:
    """Let PostgreSQL look anew at small tables that have outgrown what it knows of them; return their names.

    Plans that were made before are made again with that. A table that somebody else looks at is passed by.
    """
    names = column(await pool.fetch(LIST_OUTGROWN), "name")
    for name in names:
        await pool.fetch(f"ANALYZE (SKIP_LOCKED) {name}")
    return names


async def find_oldest_snapshot(executor: Executor) -> int | None:
    """Return the oldest transaction that somebody still needs the rows of, by its number; None if nobody needs any.

    As long as the same one comes back, no row that was deleted after it can be removed.
    """
    xid: int | None = (await executor.fetch(FIND_OLDEST_SNAPSHOT))[0]["xid"]
    return xid
