-- A repeated `quorra.enqueue` writes something small, so that its transaction waits for a synchronous standby as the first one
-- would have: the job that it answers with may be visible on the primary alone, if the wait of its commit was ended early.
-- serves: 5
CREATE OR REPLACE FUNCTION quorra.existing_job(wanted uuid, type text, queue text, payload text, is_same boolean)
RETURNS quorra.enqueued
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    SELECT jobs.type, jobs.queue, jobs.payload::text AS payload, state.status, state.run_at
    INTO found
    FROM quorra.job_states(ARRAY[wanted]) AS state
    JOIN quorra.jobs ON jobs.id = state.job_id;
    IF found.status IS NULL THEN
        RAISE EXCEPTION 'job % was removed this moment; repeat the transaction', wanted
            USING ERRCODE = 'serialization_failure';
    END IF;
    IF is_same AND (found.type, found.queue, found.payload)
        IS DISTINCT FROM (existing_job.type, existing_job.queue, existing_job.payload) THEN
        PERFORM quorra.refuse(
            'QR003', 'id',
            format('The id belongs to job %s, which has another type, queue or payload. Use a new id for new work.', wanted)
        );
    END IF;
    PERFORM pg_logical_emit_message(true, 'quorra', '');
    RETURN (wanted, true, found.status, found.run_at)::quorra.enqueued;
END
$$;
