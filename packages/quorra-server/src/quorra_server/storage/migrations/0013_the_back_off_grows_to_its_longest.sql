-- The back-off doubles until it is at the `max_seconds` of its rule: it stayed at 2,048 times the base.
-- serves: 5

-- How long a job waits after its n-th started run. Total for every n: the exponent is capped before the power, where the smallest
-- base (1 ms) is far past the longest delay that a server can be set to allow (365 days), so that the cap changes no delay. A
-- policy's fields may be missing; jitter only shortens.
CREATE OR REPLACE FUNCTION quorra.retry_delay(attempts integer, policy json) RETURNS interval
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN make_interval(secs =>
    least(
        coalesce((policy ->> 'base_seconds')::double precision, 2)
        * CASE coalesce(policy ->> 'kind', 'exponential')
              WHEN 'fixed' THEN 1
              WHEN 'linear' THEN attempts
              ELSE power(2::double precision, least(attempts, 62) - 1)
          END,
        coalesce((policy ->> 'max_seconds')::double precision, 3600)
    )
    * (1 - coalesce((policy ->> 'jitter')::double precision, 0) * random())
);
