"""`hatch run faults`: hurt a whole installation in many ways, and let the judge say what came of it.

hatch run faults --minutes 10 --seed 7
hatch run faults --minutes 2 --kinds worker.kill,pg.restart_fast
hatch run faults --kinds pg.restart_fast --count 100 --pause 4 --lanes 1 --minutes 60 --limits
hatch run faults --minutes 5 --against http://localhost:8080 --grpc localhost:50051
"""

import argparse
import asyncio
import json
import os
import shlex
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from tests.faults import report
from tests.faults.judging.judge import Judge, Quotas, Verdict
from tests.faults.kinds import KINDS
from tests.faults.outside import grpc_address, key_from_environment, rest_address
from tests.faults.run import Options, run_faults

# What a run of so many minutes must have met before it may be called passed; the judge's own quotas are for ten.
QUOTAS_MINUTES = 10.0
# What is not said again in the words that repeat a run.
PAUSE_SECONDS, LEASE_SECONDS, QUOTAS = 0.9, 3.0, "scaled"


def main(arguments: list[str] | None = None) -> int:
    """Run, judge, report."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    if options.list:
        for name, kind in sorted(KINDS.items()):
            print(f"{name:<24} {(kind.fault.__doc__ or '').strip()}")
        return 0
    kinds = _kinds(options.kinds)
    if options.against is not None:
        # Before anything is made or started.
        rest_address(options.against)
        grpc_address(options.grpc)
        key_from_environment()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="quorra-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    wished = Options(
        seconds=options.minutes * 60,
        seed=options.seed,
        kinds=kinds,
        servers=options.servers,
        workers=options.workers,
        rate=options.rate,
        lease_seconds=options.lease_seconds,
        lanes=options.lanes,
        folder=folder,
        against=options.against,
        grpc=options.grpc,
        count=options.count,
        pause_seconds=options.pause,
    )
    console.print(f"seed {options.seed}, {len(kinds)} kinds of faults, histories in {folder}")
    asyncio.run(run_faults(wished, console))
    console.print("judging ...")
    verdict = Judge(folder, _quotas(options), with_limits=options.limits).judge()
    report.show(verdict, console, replay=_replay(options))
    if options.json:
        Path(options.json).write_text(json.dumps(_as_json(verdict, options), indent=2) + "\n")
    return {"passed": 0, "failed": 1, "unknown": 3}[verdict.verdict]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to hurt (5)")
    parser.add_argument("--count", type=int, help="end as soon as each kind had an effect so many times")
    parser.add_argument(
        "--pause", type=float, default=PAUSE_SECONDS, help="seconds between two faults of one lane (0.9)"
    )
    parser.add_argument("--limits", action="store_true", help="slower recovery than documented is a failure")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2), "big"), help="the same faults again")
    parser.add_argument("--kinds", default="all", help="comma list of kinds or their beginnings, `all`, or `none`")
    parser.add_argument("--list", action="store_true", help="list the kinds and end")
    parser.add_argument("--json", metavar="FILE", help="write the verdict here")
    parser.add_argument("--folder", metavar="DIR", help="keep the histories here instead of in a temporary folder")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=600.0, help="jobs a second to submit (600); 0 for none")
    parser.add_argument(
        "--lease-seconds", type=float, default=LEASE_SECONDS, help="time to live of a worker's lease (3)"
    )
    parser.add_argument("--lanes", type=int, default=2, help="faults at the same time (2)")
    parser.add_argument("--quotas", choices=("full", "scaled", "short"), default=QUOTAS, help="what must have happened")
    parser.add_argument(
        "--against", metavar="URL", help="REST of a test installation of your own; QUORRA_API_KEY is its key"
    )
    parser.add_argument("--grpc", metavar="HOST:PORT", default="localhost:50051", help="its gRPC port")
    return parser


def _kinds(text: str) -> list[str]:
    if text == "none":
        return []
    if text == "all":
        return sorted(KINDS)
    wished = text.split(",")
    chosen = sorted(name for name in KINDS if any(name == wish or name.startswith(f"{wish}.") for wish in wished))
    unknown = [wish for wish in wished if not any(name == wish or name.startswith(f"{wish}.") for name in KINDS)]
    if unknown:
        raise SystemExit(f"faults: {', '.join(unknown)} is no kind of fault; see --list")
    return chosen


def _quotas(options: argparse.Namespace) -> Quotas:
    full = Quotas()
    if options.quotas == "full":
        return full
    if options.count is not None:
        # The count itself says whether enough happened.
        return Quotas(
            reclaims=0,
            refused=0,
            ambiguous=0,
            restarts=0,
            jobs=500,
            handed_over=0,
            faults=options.count,
            each_kind=options.count,
            checks=0,
        )
    if options.quotas == "short":
        return Quotas(reclaims=5, refused=5, ambiguous=1, restarts=1, jobs=500, handed_over=1, faults=1, checks=0)
    share = min(1.0, options.minutes / QUOTAS_MINUTES)
    scaled = Quotas(**{name: max(1, int(value * share)) for name, value in asdict(full).items()})
    # With some kinds of faults only, some invariants are not put to the test.
    return scaled if options.kinds == "all" else replace(scaled, checks=0)


def _replay(options: argparse.Namespace) -> str:
    words = ["hatch", "run", "faults", "--minutes", f"{options.minutes:g}", "--seed", str(options.seed)]
    words += ["--kinds", options.kinds, "--servers", str(options.servers), "--workers", str(options.workers)]
    words += ["--rate", f"{options.rate:g}", "--lanes", str(options.lanes)]
    words += ["--count", str(options.count)] if options.count is not None else []
    words += ["--pause", f"{options.pause:g}"] if options.pause != PAUSE_SECONDS else []
    words += ["--limits"] if options.limits else []
    words += ["--lease-seconds", f"{options.lease_seconds:g}"] if options.lease_seconds != LEASE_SECONDS else []
    words += ["--quotas", options.quotas] if options.quotas != QUOTAS else []
    words += ["--against", options.against, "--grpc", options.grpc] if options.against is not None else []
    return shlex.join(words)


def _as_json(verdict: Verdict, options: argparse.Namespace) -> dict[str, object]:
    return {**asdict(verdict), "seed": options.seed, "minutes": options.minutes, "replay": _replay(options)}


if __name__ == "__main__":
    raise SystemExit(main())
