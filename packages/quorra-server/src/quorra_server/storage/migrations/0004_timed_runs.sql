-- Runs with a timeout of their own. `timed` says that a job may have one: false for nearly every job that a server submits,
-- so that looking for overdue runs costs nothing where no job has a timeout. Whoever does not know says true, the default:
-- SQL functions, rows of before, and a server of the version before.
ALTER TABLE quorra.ready ADD COLUMN timed boolean NOT NULL DEFAULT true;

ALTER TABLE quorra.leases
    ADD COLUMN timed boolean NOT NULL DEFAULT true,
    -- Milliseconds by which handlers extended their timeouts; null while no run of the batch asked for more.
    ADD COLUMN extra_ms bigint[];

CREATE INDEX leases_timed ON quorra.leases (batch) WHERE timed;
