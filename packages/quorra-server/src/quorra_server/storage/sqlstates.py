"""THE table of SQLSTATEs: what an error of PostgreSQL means, and so what a caller is told."""

from enum import Enum

import asyncpg


class Meaning(Enum):
    """What an error says of the transaction that met it, and of the next one."""

    ROLLED_BACK = "PostgreSQL undid the whole transaction by itself: doing it again is safe, and done a few times"
    CUT = "the connection went away: a statement that was sent may have happened"
    REFUSED = "PostgreSQL takes nothing now, and did nothing: the breaker opens"
    READ_ONLY = "the primary became a standby: every connection is opened anew, so that the hosts are asked again"
    TAKEN = "another transaction inserted the same key first: nothing was done"
    NOT_MIGRATED = "the schema is not there yet: nothing was done"
    BUG = "a mistake of ours: an incident"


# A code counts before its class, which is the first two characters. What is not here is a bug.
MEANINGS: dict[str, Meaning] = {
    "40001": Meaning.ROLLED_BACK,  # serialization_failure
    "40P01": Meaning.ROLLED_BACK,  # deadlock_detected
    "55P03": Meaning.ROLLED_BACK,  # lock_not_available
    "57014": Meaning.CUT,  # query_canceled: of a COMMIT that waits for a standby, it says nothing
    "57P01": Meaning.CUT,  # admin_shutdown
    "57P02": Meaning.CUT,  # crash_shutdown
    "57P04": Meaning.CUT,  # database_dropped: a standby ends its sessions so
    "57P05": Meaning.CUT,  # idle_session_timeout
    "25P03": Meaning.CUT,  # idle_in_transaction_session_timeout
    "08": Meaning.CUT,  # connection exceptions
    "57P03": Meaning.REFUSED,  # cannot_connect_now: starting up, or shutting down
    "53": Meaning.REFUSED,  # insufficient resources: disk full, out of memory, too many connections
    "28": Meaning.REFUSED,  # invalid authorization
    "3D000": Meaning.REFUSED,  # invalid_catalog_name
    "25006": Meaning.READ_ONLY,  # read_only_sql_transaction
    "42P01": Meaning.NOT_MIGRATED,  # undefined_table
    "3F000": Meaning.NOT_MIGRATED,  # invalid_schema_name
    # Only a settle may meet an existing row and not say ON CONFLICT: the outcome that ended the lease before.
    "23505": Meaning.TAKEN,  # unique_violation
    "42": Meaning.BUG,  # syntax errors and missing rights
    "22": Meaning.BUG,  # data exceptions
}


def meaning_of(error: BaseException | None) -> Meaning:
    """Return what an error of the driver means."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return MEANINGS.get(code) or MEANINGS.get(code[:2], Meaning.BUG)
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)):
        return Meaning.CUT
    return Meaning.BUG
