"""`hatch run ledger --minutes N`: the ledger for as long as wanted, on a PostgreSQL of its own."""

import argparse
import asyncio
import sys
import time

from quorra_server.storage.migrate import migrate

from tests.ledger.judge import Guard, Verdict
from tests.ledger.run import LedgerRun
from tests.support.services import own_postgres

# A fault every half a second; one in three costs a lease.
EXPIRED_PER_MINUTE_MIN = 5
EXITS = {Verdict.PASSED: 0, Verdict.FAILED: 1, Verdict.UNKNOWN: 2}


def main() -> int:
    """Run once for each guard that is asked for, and return 0 (passed), 1 (failed) or 2 (unknown)."""
    parser = argparse.ArgumentParser(prog="ledger", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for each guard (default 1)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the faults (default: the time)")
    parser.add_argument(
        "--guard",
        choices=[*Guard, "both"],
        default="both",
        help="commit: ctx.transaction; inbox; none: must fail; default: commit, then inbox",
    )
    options = parser.parse_args()
    guards = [Guard.COMMIT, Guard.INBOX] if options.guard == "both" else [Guard(options.guard)]
    return max(_run(guard, options.minutes, options.seed) for guard in guards)


def _run(guard: Guard, minutes: float, seed: int) -> int:
    print(f"guard {guard}, {minutes:g} minutes, seed {seed}")
    with own_postgres() as postgres:
        asyncio.run(migrate(postgres.dsn))
        ledger = LedgerRun(postgres.dsn, guard, seed, _say)
        found = asyncio.run(ledger.run(minutes * 60))
    verdict = found.verdict(expired_min=int(minutes * EXPIRED_PER_MINUTE_MIN))
    faults = ", ".join(f"{number} {kind}" for kind, number in sorted(ledger.faults.items()))
    print(f"\n{found}\nfaults: {faults}\nverdict: {verdict}")
    return EXITS[verdict]


def _say(line: str) -> None:
    end = "\r" if sys.stdout.isatty() else "\n"
    print(f"{line:<140}", end=end, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
