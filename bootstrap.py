"""Run a script of this project on a machine that has nothing but Python 3.11 or newer.

    python3 bootstrap.py demo       the main job: server, workers, three kinds of jobs, every effect checked
    python3 bootstrap.py tests      all tests

Makes a virtual environment in `.bootstrap/`, installs hatch into it, and calls `hatch run` with the same words.
Everything stays inside this folder; calling it again is quick. Scripts run in this folder, wherever they are called
from: write paths as seen from here, or from the root directory.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
HOME = ROOT / ".bootstrap"
PYTHON = HOME / "venv" / "bin" / "python"
READY = HOME / "ready"
HATCH = "hatch>=1.18,<2"
UV = "uv>=0.5"


def main() -> int:
    """Prepare hatch and hand over to it."""
    if sys.version_info < (3, 11):
        print(f"Quorra needs Python 3.11 or newer; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    if not _is_ready() and not _install():
        return 1
    environment = {
        **_uv_settings(),
        **os.environ,
        # An empty file is a configuration: without one hatch writes its own into the user's home, or gives up there.
        "HATCH_CONFIG": str(READY),
        "HATCH_DATA_DIR": str(HOME / "hatch"),
        "HATCH_CACHE_DIR": str(HOME / "cache"),
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    # Tests start hundreds of processes, each of which would compile all that it imports.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    os.chdir(ROOT)
    os.execve(PYTHON, [str(PYTHON), "-m", "hatch", "run", *sys.argv[1:]], environment)


def _is_ready() -> bool:
    # The Python that all was made with may be gone by now, or have been replaced by another version.
    return (
        READY.exists()
        and PYTHON.exists()
        and not subprocess.run([PYTHON, "-c", "import hatch"], check=False, capture_output=True).returncode
    )


def _uv_settings() -> dict[str, str]:
    """Leave uv its usual cache, which projects share, unless that cannot be written."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "uv")
    existing = next(folder for folder in (usual, *usual.parents) if folder.exists())
    can_be_written = existing.is_dir() and os.access(existing, os.W_OK)
    return {} if can_be_written else {"UV_CACHE_DIR": str(HOME / "uv")}


def _install() -> bool:
    print("Preparing .bootstrap (once; about half a minute) ...", file=sys.stderr, flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(HOME / "venv")], check=False, capture_output=True, text=True
    )
    if made.returncode:
        print(made.stdout + made.stderr, file=sys.stderr)
        print("Python's venv module is needed; on Debian and Ubuntu: apt-get install python3-venv", file=sys.stderr)
        return False
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", HATCH, UV]
    if subprocess.run(command, check=False).returncode:
        print(
            "hatch could not be installed; check that the package index can be reached, and try again.", file=sys.stderr
        )
        return False
    READY.touch()
    return True


if __name__ == "__main__":
    raise SystemExit(main())
