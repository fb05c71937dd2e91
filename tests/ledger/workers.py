"""The workers of the ledger: every run writes one row, guarded as it was told."""

from tests.ledger.judge import Guard

MODULE = """
    import asyncio, os, random
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager
    from datetime import timedelta
    from typing import Any

    import asyncpg
    from quorra_worker_sdk import Context, Dead, Worker, inbox

    GUARD = os.environ["LEDGER_GUARD"]

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Any]:
        async with asyncpg.create_pool(os.environ["LEDGER_DATABASE"], min_size=0, max_size=4, timeout=5) as pool:
            yield pool

    worker = Worker(slots=4, lifespan=lifespan, lease_ttl=timedelta(seconds=2))

    async def write(connection: Any, ctx: Context[Any], is_hopeless: bool) -> None:
        await connection.execute("INSERT INTO ledger (job_id, attempt) VALUES ($1, $2)", ctx.job.id, ctx.job.attempt)
        await pause()
        if is_hopeless:
            raise Dead("as it was told")

    async def pause() -> None:
        # Room for a fault between any two steps.
        await asyncio.sleep(random.random() * 0.1)

    @worker.job("move")
    async def move(ctx: Context[Any], is_hopeless: bool) -> None:
        async with ctx.deps.acquire() as connection:
            if GUARD == "commit":
                async with ctx.transaction(connection):
                    await write(connection, ctx, is_hopeless)
            elif GUARD == "inbox":
                async with connection.transaction():
                    if await inbox.enter(connection, ctx.job):
                        await write(connection, ctx, is_hopeless)
            else:
                await write(connection, ctx, is_hopeless)
        await pause()
"""


def environment(guard: Guard, database_url: str, grpc_address: str) -> dict[str, str]:
    """Return what a worker needs to know."""
    return {"LEDGER_GUARD": guard.value, "LEDGER_DATABASE": database_url, "QUORRA_GRPC_ADDR": grpc_address}
