"""`hatch run mutants`: plant one bug after the other into a copy of the packages, and see which check catches it.

    hatch run mutants
    hatch run mutants --only settle-without-secret,lease-too-early
    hatch run mutants --judge

A bug is a file in `planted/`: which text of which file to replace, what that breaks, and which checks ought to see it.
The copy is put before the installed packages on PYTHONPATH; the work tree is never touched. A check that fails without
the bug too has caught nothing. With `--judge` only those are planted that break what a fault run is judged by, and its
judge has to see them by itself.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.support.services import postgres_service, redis_service

ROOT = Path(__file__).resolve().parents[2]
PLANTED = Path(__file__).parent / "planted"
PAGE = ROOT / "docs" / "planted-bugs.md"
PACKAGES = ("quorra-server", "quorra-worker-sdk")
CHECK_SECONDS_MAX = 600
# A check is a part of the tests, or a short fault run with some kinds.
FAULT_RUN = "faults:"
TAIL_CHARACTERS = 1_500
# How the line begins that says when the table was made.
DATED = "Planted on"


@dataclass(frozen=True, slots=True)
class Edit:
    """A text to replace; it occurs once in its file."""

    file: str
    find: str
    replace: str


@dataclass(frozen=True, slots=True)
class Bug:
    """One planted bug.

    Attributes:
        judged_under: The kinds of faults of a short run whose judge sees it by itself; empty if it is none for a judge.
    """

    name: str
    breaks: str
    checks: tuple[str, ...]
    edits: tuple[Edit, ...]
    judged_under: str = ""

    def for_the_judge(self) -> "Bug":
        """Return the same with a fault run as its only check."""
        return replace(self, checks=(f"{FAULT_RUN}{self.judged_under}",))


@dataclass(slots=True)
class Caught:
    """What became of a bug: the check that saw it, or none."""

    bug: Bug
    check: str | None
    seconds: float
    tail: str = ""


def planted_bugs() -> list[Bug]:
    """Return all planted bugs, by name."""
    return [_bug(path) for path in sorted(PLANTED.glob("*.toml"))]


def _bug(path: Path) -> Bug:
    content = tomllib.loads(path.read_text())
    edits = tuple(Edit(edit["file"], edit["find"], edit["replace"]) for edit in content["edits"])
    return Bug(path.stem, content["breaks"], tuple(content["checks"]), edits, content.get("judged_under", ""))


def inapplicable(bug: Bug, root: Path = ROOT) -> list[str]:
    """Return why a bug cannot be planted into the code as it is; empty if it can."""
    problems = []
    for edit in bug.edits:
        path = root / edit.file
        count = path.read_text().count(edit.find) if path.exists() else 0
        if count != 1:
            problems.append(f"{bug.name}: the text occurs {count} times in {edit.file}: {edit.find!r}")
        if edit.find == edit.replace:
            problems.append(f"{bug.name}: the replacement changes nothing")
    return problems


def plant(bug: Bug, root: Path) -> None:
    """Write a bug into a copy."""
    for edit in bug.edits:
        path = root / edit.file
        path.write_text(path.read_text().replace(edit.find, edit.replace))


@contextmanager
def copy_of_packages() -> Iterator[Path]:
    """Copy the packages' sources."""
    with tempfile.TemporaryDirectory(prefix="quorra-mutants-") as folder:
        for package in PACKAGES:
            source = ROOT / "packages" / package / "src"
            shutil.copytree(
                source, Path(folder) / source.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__")
            )
        yield Path(folder)


class Catcher:
    """Plants bugs, and sees which check fails because of each."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Take where PostgreSQL and Redis are."""
        self._environment = environment
        self._without_bug: dict[str, tuple[bool, str]] = {}

    def catch(self, bug: Bug) -> Caught:
        """Plant a bug and run its checks until one fails."""
        began = time.monotonic()
        tail = ""
        with copy_of_packages() as copy:
            plant(bug, copy)
            for check in bug.checks:
                try:
                    is_good, tail = run_check(check, copy, self._environment)
                    if not is_good and self._is_content_without_bug(check):
                        return Caught(bug, check, time.monotonic() - began, tail)
                except RuntimeError as error:
                    tail = str(error)
        return Caught(bug, None, time.monotonic() - began, tail)

    def _is_content_without_bug(self, check: str) -> bool:
        if check not in self._without_bug:
            with copy_of_packages() as copy:
                self._without_bug[check] = run_check(check, copy, self._environment)
        is_good, tail = self._without_bug[check]
        if not is_good:
            raise RuntimeError(f"the check {check!r} fails without the bug too: {tail}")
        return True


def run_check(check: str, copy: Path, environment: dict[str, str]) -> tuple[bool, str]:
    """Run one check on a copy; say whether it is content, and what it said last.

    Raises:
        RuntimeError: It proves nothing: it could not be run, took too long, or came to no verdict.
    """
    paths = [str(copy / "packages" / package / "src") for package in PACKAGES]
    settings = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            _command(check),
            cwd=ROOT,
            env=settings,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the check {check!r} did not end within {CHECK_SECONDS_MAX} s") from error
    said = (done.stdout + done.stderr)[-TAIL_CHARACTERS:]
    # An unknown verdict (3) proves nothing; pytest says 5 when it found no test.
    if done.returncode in (3, 5) or (done.returncode not in (0, 1)):
        raise RuntimeError(f"the check {check!r} could not be run ({done.returncode}): {said}")
    return done.returncode == 0, said


def _command(check: str) -> list[str]:
    if check.startswith(FAULT_RUN):
        kinds = check.removeprefix(FAULT_RUN)
        options = ["--minutes", "0.4", "--rate", "150", "--seed", "1", "--quotas", "short", "--kinds", kinds]
        return [sys.executable, "-m", "tests.faults", *options]
    path, _, words = check.partition(" -k ")
    return [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        path,
        *(["-k", words] if words else []),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant them all."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    wished = options.only.split(",") if options.only else None
    bugs = [bug for bug in planted_bugs() if wished is None or bug.name in wished]
    if options.judge:
        bugs = [bug.for_the_judge() for bug in bugs if bug.judged_under]
    problems = [problem for bug in bugs for problem in inapplicable(bug)]
    if problems or not bugs or (wished and len(bugs) < len(wished)):
        console.print("\n".join(problems) or "mutants: no such bug", style="red", highlight=False)
        return 2
    path = Path(options.json) if options.json else None
    known: dict[str, str | None] = json.loads(path.read_text()) if options.resume and path and path.exists() else {}
    known = {name: check for name, check in known.items() if check is not None}
    for result in _catch_all([bug for bug in bugs if bug.name not in known], console):
        known[result.bug.name] = result.check
        if path is not None:
            path.write_text(json.dumps(known, indent=2) + "\n")
    if options.docs:
        write_page(planted_bugs(), known)
    survivors = [bug for bug in bugs if known[bug.name] is None]
    for bug in survivors:
        console.print(f"[red]{bug.name} was not caught[/]: {bug.breaks}", highlight=False)
    console.print(f"{len(bugs) - len(survivors)} of {len(bugs)} caught")
    return 1 if survivors else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="comma list of names")
    parser.add_argument(
        "--judge", action="store_true", help="only those that the judge of a fault run has to see by itself"
    )
    parser.add_argument("--json", metavar="FILE", help="write what caught what here, after each bug")
    parser.add_argument("--resume", action="store_true", help="go on where the last run with this FILE ended")
    parser.add_argument("--docs", action="store_true", help=f"rewrite the table of {PAGE.relative_to(ROOT)}")
    return parser


def _catch_all(bugs: Sequence[Bug], console: Console) -> Iterator[Caught]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with postgres_service() as postgres, redis_service() as redis, Progress(*columns, console=console) as progress:
        environment = {"QUORRA_TEST_DATABASE_URL": postgres.url, "QUORRA_TEST_REDIS_URL": redis.url}
        task = progress.add_task("planting", total=len(bugs))
        catcher = Catcher(environment)
        for bug in bugs:
            progress.update(task, description=bug.name)
            result = catcher.catch(bug)
            colour = "red" if result.check is None else "green"
            said = f"[{colour}]{bug.name}[/] {result.check or 'survived'} ({result.seconds:.0f} s)"
            progress.console.print(said, highlight=False)
            if result.check is None:
                progress.console.print(result.tail, markup=False, highlight=False)
            progress.advance(task)
            yield result


def write_page(bugs: Sequence[Bug], caught_by: Mapping[str, str | None]) -> None:
    """Write the table of what caught what, and of which day and version it is."""
    count = sum(caught_by.get(bug.name) is not None for bug in bugs)
    lines = [PAGE.read_text().partition(DATED)[0].partition("| bug |")[0].rstrip(), ""]
    lines += [f"{DATED} {datetime.now(UTC):%Y-%m-%d}, on {_revision()}: {count} of {len(bugs)} were caught.", ""]
    lines += ["| bug | what it breaks | caught by | and by the judge, under |", "|---|---|---|---|"]
    lines += [f"| `{bug.name}` | {bug.breaks} | {_shown(bug, caught_by)} | {bug.judged_under} |" for bug in bugs]
    PAGE.write_text("\n".join(lines) + "\n")


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty=, changed"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _shown(bug: Bug, caught_by: Mapping[str, str | None]) -> str:
    check = caught_by.get(bug.name)
    if check is not None:
        return f"`{check}`"
    return "nothing" if bug.name in caught_by else "not run yet"


if __name__ == "__main__":
    raise SystemExit(main())
