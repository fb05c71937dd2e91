-- Drop the partitions of a day; what stays moves to the default partitions first. Second half of dropping a day, in the
-- transaction of forget_ended.sql: everybody waits meanwhile.
-- $1 day date  $2 spared text (uuid[]: what that statement named)
SELECT quorra.drop_day($1::date, $2::text::uuid[]) AS kept
