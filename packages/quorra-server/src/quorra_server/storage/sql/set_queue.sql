-- Set the back-off that jobs of a queue have when they bring none of their own.
-- $1 queue text  $2 backoff text (JSON; null: the default)
INSERT INTO quorra.queues (name, backoff, updated_at)
VALUES ($1::text, $2::text::json, statement_timestamp())
ON CONFLICT (name) DO UPDATE
SET backoff = excluded.backoff, updated_at = excluded.updated_at
RETURNING name
