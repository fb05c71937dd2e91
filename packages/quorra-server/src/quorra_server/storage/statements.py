"""The SQL statements, loaded once from `sql/`: `statement("lease_jobs")` is the text of `sql/lease_jobs.sql`."""

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

SQL_FOLDER = resources.files("quorra_server.storage") / "sql"
MIGRATIONS_FOLDER = resources.files("quorra_server.storage") / "migrations"


@cache
def statement(name: str) -> str:
    """Return the text of a statement.

    Call it while importing, so that a typo fails there and not in the middle of a request.

    Raises:
        FileNotFoundError: There is no statement of that name.
    """
    return (SQL_FOLDER / f"{name}.sql").read_text(encoding="utf-8")


def sql_files(folder: Traversable) -> list[tuple[str, str]]:
    """Return name (without `.sql`) and text of each file in a folder, sorted by name."""
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted((entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8")) for entry in files)
