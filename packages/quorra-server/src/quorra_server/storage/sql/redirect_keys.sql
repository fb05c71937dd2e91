-- Point keys that were claimed for new jobs at the jobs that those were merged into. Their time moves on, past the creation
-- of those jobs, even if the clock was put back since: a key that is younger than its job did not make it. A key that is
-- somebody else's stays as it is.
-- $1 scopes text[]  $2 keys text[]  $3 claimants uuid[]  $4 holders uuid[]
UPDATE quorra.keys
SET job_id = merged.holder,
    created_at = greatest(
        statement_timestamp(),
        (SELECT jobs.created_at + interval '1 microsecond' FROM quorra.jobs WHERE jobs.id = merged.holder)
    )
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[]) AS merged (scope, key, claimant, holder)
WHERE keys.scope = merged.scope AND keys.key = merged.key AND keys.job_id = merged.claimant
