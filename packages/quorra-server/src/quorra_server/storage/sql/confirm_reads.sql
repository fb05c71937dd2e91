-- Write something small, so that the commit of this transaction waits for a synchronous standby as any other: with it
-- everything that was written before is there too.
SELECT pg_logical_emit_message(true, 'quorra', '') IS NOT NULL AS is_written
