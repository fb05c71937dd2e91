-- Take the jobs of a day that are over for good out of the counts, and name the others, as the text of an array. Null: another
-- server is at the day or has dropped it. First half of dropping a day: everybody goes on meanwhile.
-- $1 day date  $2 succeeded_for interval
SELECT quorra.forget_ended($1::date, statement_timestamp() - $2::interval)::text AS spared
