-- Name the oldest transaction that somebody's snapshot still needs here, or that is open itself: what was deleted since then
-- stays. Null if nobody needs any. Every role sees this much of the sessions of others, though not since when they run.
-- A vacuum has a snapshot, and holds nothing.
SELECT (
    SELECT holder.xid::text::bigint
    FROM (
        SELECT unnest(ARRAY[session.backend_xmin, session.backend_xid]) AS xid
        FROM pg_catalog.pg_stat_activity AS session
        WHERE session.pid <> pg_catalog.pg_backend_pid()
          -- A standby that tells what its readers need belongs to no database.
          AND (session.datid IS NULL OR session.datname = pg_catalog.current_database())
          AND session.pid <> ALL (ARRAY (SELECT vacuum.pid FROM pg_catalog.pg_stat_progress_vacuum AS vacuum))
        UNION ALL
        SELECT slot.xmin
        FROM pg_catalog.pg_replication_slots AS slot
        UNION ALL
        SELECT prepared.transaction
        FROM pg_catalog.pg_prepared_xacts AS prepared
        WHERE prepared.database = pg_catalog.current_database()
    ) AS holder
    WHERE holder.xid IS NOT NULL
    ORDER BY pg_catalog.age(holder.xid) DESC
    LIMIT 1
) AS xid
