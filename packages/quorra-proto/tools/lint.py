"""Lint the `.proto` file with buf, and compare it with the last release so that no peer breaks.

Usage: python tools/lint.py

buf comes from npm, into a temporary folder; where npm is missing there is nothing to run it with, which is said.
The last release is the newest tag `quorra-proto-*`; before the first one it is the first commit that has the file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
PROTO_FILE = "proto/quorra_proto/v1/quorra.proto"
BUF = "@bufbuild/buf@1"


def main() -> int:
    """Run both checks and return 0 if the protocol passes."""
    if shutil.which("npm") is None:
        print("proto-lint: skipped, npm is not installed", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        buf = _installed(Path(scratch))
        checks = [[buf, "lint"]]
        released = _released(Path(scratch))
        if released is None:
            print("proto-lint: nothing to compare with, this is no git checkout with history", file=sys.stderr)
        else:
            checks.append([buf, "breaking", "--against", str(released)])
        # buf keeps a cache below the home folder unless it is told otherwise.
        environment = {**os.environ, "BUF_CACHE_DIR": str(Path(scratch) / "cache")}
        return max(subprocess.run(check, cwd=PACKAGE, check=False, env=environment).returncode for check in checks)


def _installed(folder: Path) -> str:
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), BUF]
    subprocess.run(command, check=True)
    return str(folder / "node_modules" / ".bin" / "buf")


def _released(folder: Path) -> Path | None:
    """Write the module of the last release into a folder of its own, and return it."""
    tags = _git("tag", "--list", "quorra-proto-*", "--sort=-version:refname")
    first = _git("log", "--diff-filter=A", "--format=%H", "--", PROTO_FILE)
    revision = next(iter(tags.split()), None) or next(iter(first.split()[-1:]), None)
    if revision is None:
        return None
    target = folder / "released" / PROTO_FILE
    target.parent.mkdir(parents=True)
    target.write_text(_git("show", f"{revision}:./{PROTO_FILE}"))
    shutil.copy(PACKAGE / "buf.yaml", folder / "released" / "buf.yaml")
    return folder / "released"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    raise SystemExit(main())
