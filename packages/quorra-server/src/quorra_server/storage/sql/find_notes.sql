-- Read what handlers said of jobs.
-- $1 jobs uuid[]
SELECT job_id, checkpoint::text AS checkpoint, progress_done, progress_total, progress_note
FROM quorra.notes
WHERE job_id = ANY ($1::uuid[])
