"""Durability of what was read: a caller may be told that something stands only if it lasts."""

from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

CONFIRM_READS = statement("confirm_reads")


async def confirm_reads(executor: Executor) -> None:
    """See to it that what was read is durable once this transaction has committed.

    A commit whose wait for a synchronous standby was ended early, by a cancelled request or by an operator, is visible
    although perhaps no standby has it. PostgreSQL says so itself: "The transaction has already committed locally, but
    might not have been replicated to the standby." A transaction that only reads it would wait for nothing.
    """
    await executor.fetch(CONFIRM_READS)
