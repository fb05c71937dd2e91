"""Build the four wheels, install them into a clean environment, and run what they install.

Wheels are tested as wheels: an editable install hides files that the build forgets.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PACKAGES = ("quorra-proto", "quorra-server", "quorra-worker-sdk", "quorractl")
PROGRAMS = (("quorra-server", "--version"), ("quorra-worker", "--version"), ("quorractl", "--version"))
IMPORTS = "import quorra_proto.v1.quorra_pb2_grpc, quorra_server.app, quorra_worker_sdk, quorractl.main"


def main() -> int:
    # The folder is emptied once, not by each build: they share it.
    shutil.rmtree(DIST, ignore_errors=True)
    for package in PACKAGES:
        _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(DIST), str(ROOT / "packages" / package))
    wheels = sorted(str(path) for path in DIST.glob("*.whl"))
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        _run("uv", "venv", "--quiet", "--python", sys.executable, str(python.parent.parent))
        _run("uv", "pip", "install", "--quiet", "--python", str(python), *wheels)
        _run(str(python), "-c", IMPORTS, cwd=folder)
        for program, *arguments in PROGRAMS:
            _run(str(python.parent / program), *arguments, cwd=folder)
    print(f"{len(wheels)} wheels install and run: {', '.join(Path(wheel).name for wheel in wheels)}")
    return 0


def _run(*command: str, cwd: str | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd or ROOT)


if __name__ == "__main__":
    raise SystemExit(main())
