-- Write down what a server found after a failover; what it found before on the same life is kept.
-- The last commit that a promoted standby has replayed is where the earlier life was cut; a restart forgets that, and then
-- the last beat of the earlier life says it less exactly.
-- $1 system_identifier bigint  $2 timeline int  $3 node text  $4 earlier_beat_at timestamptz
-- $5 seconds_ago float8 (when the server turned to this life)
-- $6 jobs bigint  $7 outcomes bigint  $8 job_ids uuid[]
INSERT INTO quorra.failovers (
    system_identifier, timeline, node, noticed_at, lost_from, lost_until, jobs, outcomes, job_ids
)
SELECT
    $1::bigint, $2::integer, $3::text, clock_timestamp(), cut.at,
    greatest(cut.at, clock_timestamp() - make_interval(secs => $5::double precision)),
    $6::bigint, $7::bigint, $8::uuid[]
FROM (SELECT coalesce(pg_last_xact_replay_timestamp(), $4::timestamptz) AS at) AS cut
ON CONFLICT (system_identifier, timeline, node) DO UPDATE
SET jobs = failovers.jobs + excluded.jobs,
    outcomes = failovers.outcomes + excluded.outcomes,
    job_ids = failovers.job_ids || excluded.job_ids
RETURNING lost_from, lost_until
