"""The protocol passes buf's rules, and breaks no peer of the last release."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINT = Path(__file__).parents[2] / "packages" / "quorra-proto" / "tools" / "lint.py"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_protocol_is_well_formed_and_compatible() -> None:
    done = subprocess.run([sys.executable, str(LINT)], capture_output=True, text=True, timeout=120, check=False)

    assert (0, "") == (done.returncode, done.stdout), done.stderr
