-- Drop the partitions of a day; what must stay moves to the default partition first. Null: another server is at it or has
-- done it.
-- $1 day date  $2 dead_for interval
SELECT quorra.drop_partition($1::date, $2::interval) AS kept
