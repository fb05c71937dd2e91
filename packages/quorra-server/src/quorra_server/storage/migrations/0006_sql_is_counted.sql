-- What the functions for SQL do, no server sees: the deltas that they append say so, and the server that folds them adds them to
-- its metrics. A function sets the mark for as long as it runs; no insert has to name the column. The mark is a setting that
-- every role may give to its functions: for one of our own the owner of the schema would have to be a superuser.
-- serves: 5
ALTER TABLE quorra.count_deltas
    ADD COLUMN by_sql boolean NOT NULL DEFAULT current_setting('application_name') = 'quorra.sql';

ALTER FUNCTION quorra.enqueue(
    text, text, text, bigint, double precision, timestamptz, bigint, text, uuid, text[], json, double precision
) SET application_name = 'quorra.sql';
ALTER FUNCTION quorra.settle_lease(uuid, text, quorra.outcome_kind, text, text, text, bigint, boolean)
SET application_name = 'quorra.sql';
