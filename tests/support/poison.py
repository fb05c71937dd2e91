"""Jobs that PostgreSQL takes no outcome or no lease of: a mistake of ours in a statement, as only some rows meet it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

# A sequence counts what is rolled back, too.
POISON = """
CREATE TABLE public.poisonous (job_id uuid, kind text, times bigint);
CREATE SEQUENCE public.tries;
CREATE FUNCTION public.meet_bug() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM public.poisonous
        WHERE job_id = NEW.job_id AND coalesce(kind, NEW.kind::text) = NEW.kind::text
          AND nextval('public.tries') <= coalesce(times, 9223372036854775807)
    ) THEN
        RAISE division_by_zero;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER meet_bug BEFORE INSERT ON quorra.outcomes FOR EACH ROW EXECUTE FUNCTION public.meet_bug();
"""
CURE = """
DROP TRIGGER meet_bug ON quorra.outcomes;
DROP FUNCTION public.meet_bug;
DROP SEQUENCE public.tries;
DROP TABLE public.poisonous;
"""
UNTAKABLE = """
CREATE TABLE public.untakable (job_id uuid);
CREATE FUNCTION public.meet_bug_of_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.untakable WHERE job_id = OLD.job_id) THEN
        RAISE division_by_zero;
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER meet_bug BEFORE DELETE ON quorra.ready FOR EACH ROW EXECUTE FUNCTION public.meet_bug_of_lease();
"""
TAKABLE = """
DROP TRIGGER meet_bug ON quorra.ready;
DROP FUNCTION public.meet_bug_of_lease;
DROP TABLE public.untakable;
"""


class Poison:
    """What is poisonous, for as long as it lasts."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def tries(self) -> int:
        """Say how often an outcome of a poisonous job was tried."""
        number: int = await self._connection.fetchval(
            "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.tries"
        )
        return number


@asynccontextmanager
async def poisoned(
    database_url: str, *job_ids: UUID | str, kind: str | None = None, times: int | None = None
) -> AsyncIterator[Poison]:
    """Have each outcome of some jobs meet a bug; of one kind, or as often as that, if it is said."""
    async with _altered(database_url, POISON, CURE) as connection:
        rows = [(str(job_id), kind, times) for job_id in job_ids]
        await connection.executemany("INSERT INTO public.poisonous VALUES ($1, $2, $3)", rows)
        yield Poison(connection)


@asynccontextmanager
async def broken_statements(database_url: str) -> AsyncIterator[None]:
    """Have every statement that ends leases meet a bug, whatever the job: a column is missing."""
    rename = "ALTER TABLE quorra.outcomes RENAME COLUMN {} TO {}"
    async with _altered(database_url, rename.format("reason", "renamed"), rename.format("renamed", "reason")):
        yield


@asynccontextmanager
async def untakable(database_url: str, *job_ids: UUID | str) -> AsyncIterator[None]:
    """Have each lease of some jobs meet a bug."""
    async with _altered(database_url, UNTAKABLE, TAKABLE) as connection:
        await connection.executemany("INSERT INTO public.untakable VALUES ($1)", [(str(job_id),) for job_id in job_ids])
        yield


@asynccontextmanager
async def _altered(database_url: str, alter: str, restore: str) -> AsyncIterator[asyncpg.Connection]:
    """Alter the schema for a while; yields a connection."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(alter)
        yield connection
    finally:
        await connection.execute(restore)
        await connection.close()
