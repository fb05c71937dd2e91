-- Say which PostgreSQL this is: primary or standby, of which cluster, on which timeline (0 for a standby, which follows
-- that of its primary).
SELECT
    pg_is_in_recovery() AS is_standby,
    current_setting('default_transaction_read_only')::boolean AS is_read_only,
    (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
    CASE
        WHEN pg_is_in_recovery() THEN 0
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
    END AS timeline
