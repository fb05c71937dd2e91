-- Name the small tables that have grown more than tenfold since PostgreSQL last looked, as far as this role may look anew.
-- From some thousand pages on autovacuum comes soon enough.
SELECT relation.oid::regclass::text AS name
FROM pg_catalog.pg_class AS relation
WHERE relation.relnamespace = 'quorra'::regnamespace
  AND relation.relkind = 'r'
  AND relation.relpages < 1000
  AND pg_catalog.pg_relation_size(relation.oid) > 8192 * greatest(10 * relation.relpages, 16)
  AND pg_catalog.pg_has_role(relation.relowner, 'USAGE')
