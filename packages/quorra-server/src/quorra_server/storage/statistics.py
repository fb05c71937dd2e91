"""What PostgreSQL knows of the sizes of our tables: cached plans rest on it."""

from quorra_server.storage.database import Pool, column
from quorra_server.storage.statements import statement

LIST_OUTGROWN = statement("list_outgrown")


async def analyze_outgrown(pool: Pool) -> list[str]:
    """Let PostgreSQL look anew at small tables that have outgrown what it knows of them; return their names.

    Plans that were made before are made again with that. A table that somebody else looks at is passed by.
    """
    names = column(await pool.fetch(LIST_OUTGROWN), "name")
    for name in names:
        await pool.fetch(f"ANALYZE (SKIP_LOCKED) {name}")
    return names
