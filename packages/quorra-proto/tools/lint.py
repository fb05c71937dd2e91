"""Lint the `.proto` file with buf, and compare it with the last release so that no peer breaks.

Usage: python tools/lint.py

buf comes from npm, into a temporary folder; where npm is missing there is nothing to run it with, which is said.
A release writes the descriptor of its protocol with: buf build -o released.binpb
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
RELEASED = "released.binpb"
BUF = "@bufbuild/buf@1"


def main() -> int:
    """Run both checks and return 0 if the protocol passes."""
    if shutil.which("npm") is None:
        print("proto-lint: skipped, npm is not installed", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        buf = _installed(Path(scratch))
        checks = [[buf, "lint"], [buf, "breaking", "--against", RELEASED]]
        # buf keeps a cache below the home folder unless it is told otherwise.
        environment = {**os.environ, "BUF_CACHE_DIR": str(Path(scratch) / "cache")}
        return max(subprocess.run(check, cwd=PACKAGE, check=False, env=environment).returncode for check in checks)


def _installed(folder: Path) -> str:
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), BUF]
    subprocess.run(command, check=True)
    return str(folder / "node_modules" / ".bin" / "buf")


if __name__ == "__main__":
    raise SystemExit(main())
