-- Turning a value into JSON calls the cast to json of its type, if it has one, and anybody may define a type with such a
-- cast. The functions that take any value therefore run as their caller; what they call runs as the owner, and takes text.
ALTER FUNCTION quorra.enqueue(
    text, anyelement, text, bigint, double precision, timestamptz, bigint, text, uuid, text[], json, double precision
) SECURITY INVOKER;
ALTER FUNCTION quorra.complete(uuid, text, anyelement) SECURITY INVOKER;
