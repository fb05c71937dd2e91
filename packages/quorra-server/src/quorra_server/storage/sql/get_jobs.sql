-- Read whole jobs by id; unknown ids are missing from the reply.
-- $1 jobs uuid[]
SELECT
    jobs.id, jobs.type, jobs.payload::text AS payload, jobs.queue, jobs.priority, state.status, state.attempts,
    state.deliveries, state.generation, jobs.max_retries, jobs.timeout_ms, state.last_error,
    state.result::text AS result, jobs.tags, jobs.unique_key, jobs.backoff::text AS backoff, jobs.created_at,
    state.changed_at AS updated_at, state.run_at, state.leased_at, state.started_at, state.finished_at,
    state.lease_expires_at, state.leased_by, state.dead_because
FROM quorra.job_states($1::uuid[]) AS state
JOIN quorra.jobs ON jobs.id = state.job_id
