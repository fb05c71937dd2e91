-- Which primaries this database has had, and what each failover may have cost.
-- serves: 5

-- One row for each life of the database: the cluster, and the timeline that a promotion (or a restore) began. A beat a second
-- says how far a life is known to have come; after an asynchronous failover the beat that is left says where it was cut.
CREATE TABLE quorra.lives (
    system_identifier bigint NOT NULL,
    timeline integer NOT NULL,
    began_at timestamptz NOT NULL,
    beat_at timestamptz NOT NULL,
    PRIMARY KEY (system_identifier, timeline)
) WITH (fillfactor = 50);

-- What each server found after a change from one life to the next.
CREATE TABLE quorra.failovers (
    system_identifier bigint NOT NULL,
    timeline integer NOT NULL,
    node text NOT NULL,
    noticed_at timestamptz NOT NULL,
    -- What was acknowledged after `lost_from` and until `lost_until` may be lost; null if nobody can say any more.
    lost_from timestamptz,
    lost_until timestamptz,
    jobs bigint NOT NULL CHECK (jobs >= 0),
    outcomes bigint NOT NULL CHECK (outcomes >= 0),
    job_ids uuid[] NOT NULL,
    PRIMARY KEY (system_identifier, timeline, node)
);
