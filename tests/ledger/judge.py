"""The judge: counts rows with SQL of its own, and does not call a run passed that had too few faults to say so."""

from dataclasses import dataclass
from enum import StrEnum

import asyncpg

CREATE_LEDGER = "CREATE TABLE ledger (job_id uuid NOT NULL, attempt integer NOT NULL)"
COUNT = """
WITH ended AS (
    SELECT job_id, status::text AS status FROM quorra.outcomes WHERE status IS NOT NULL AND replayed_at IS NULL
),
written AS (
    SELECT job_id, count(*) AS times FROM ledger GROUP BY job_id
)
SELECT
    count(*) FILTER (WHERE ended.status = 'succeeded') AS succeeded,
    count(*) FILTER (WHERE ended.status <> 'succeeded') AS others,
    count(*) FILTER (WHERE ended.status IS NULL) AS unfinished,
    count(*) FILTER (WHERE ended.status = 'succeeded' AND written.times IS NULL) AS missing,
    count(*) FILTER (WHERE ended.status = 'succeeded' AND written.times > 1) AS doubled,
    count(*) FILTER (WHERE ended.status <> 'succeeded' AND written.times > 0) AS stray,
    (SELECT count(*) FROM quorra.outcomes WHERE kind = 'expired') AS expired
FROM quorra.jobs
LEFT JOIN ended ON ended.job_id = jobs.id
LEFT JOIN written ON written.job_id = jobs.id
"""


class Guard(StrEnum):
    """What makes an effect happen once."""

    COMMIT = "commit"
    INBOX = "inbox"
    NONE = "none"


class Verdict(StrEnum):
    """What a run showed."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Count:
    """What was found.

    Attributes:
        missing: Succeeded jobs without a row.
        doubled: Succeeded jobs with more than one.
        stray: Jobs that did not succeed, and yet have a row.
        expired: Leases that ran out: faults that hit a run.
    """

    succeeded: int
    others: int
    unfinished: int
    missing: int
    doubled: int
    stray: int
    expired: int

    def verdict(self, *, expired_min: int) -> Verdict:
        """Judge a run that has ended and was to lose so many leases at least."""
        if self.missing or self.doubled or self.stray or self.unfinished:
            return Verdict.FAILED
        has_quotas = self.expired >= expired_min and self.succeeded > 0 and self.others > 0
        return Verdict.PASSED if has_quotas else Verdict.UNKNOWN

    def __str__(self) -> str:
        return (
            f"{self.succeeded} succeeded, {self.others} did not, {self.unfinished} unfinished; "
            f"rows: {self.missing} missing, {self.doubled} doubled, {self.stray} stray; {self.expired} leases lost"
        )


async def count(connection: asyncpg.Connection) -> Count:
    """Count what is there now."""
    return Count(**dict(await connection.fetchrow(COUNT)))
