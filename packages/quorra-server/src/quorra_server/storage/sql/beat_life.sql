-- Say that a life of the database goes on. One row if that was worth writing down: whether this is its first beat, and the
-- last beat of any other life.
-- The moment of the statement, because clock_timestamp() can move on between two columns of the first beat.
-- $1 system_identifier bigint  $2 timeline int
WITH beat AS (
    INSERT INTO quorra.lives AS life (system_identifier, timeline, began_at, beat_at)
    VALUES ($1::bigint, $2::integer, statement_timestamp(), statement_timestamp())
    ON CONFLICT (system_identifier, timeline) DO UPDATE
    SET beat_at = statement_timestamp()
    -- A beat that is still to come is of a clock that was put back since.
    WHERE life.beat_at NOT BETWEEN statement_timestamp() - interval '900 milliseconds'
        AND statement_timestamp() + interval '900 milliseconds'
    RETURNING life.began_at = life.beat_at AS is_first
)
SELECT
    beat.is_first,
    (
        SELECT max(lives.beat_at)
        FROM quorra.lives
        WHERE (lives.system_identifier, lives.timeline) <> ($1::bigint, $2::integer)
    ) AS earlier_beat_at
FROM beat
