-- Who is signed in to the dashboard: any server may be asked for the next page.
-- serves: 5

-- A digest, so that whoever reads this table cannot use what it holds.
CREATE TABLE quorra.sessions (
    digest bytea NOT NULL PRIMARY KEY,
    used_at timestamptz NOT NULL
) WITH (fillfactor = 50);
