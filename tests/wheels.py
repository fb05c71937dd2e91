"""Build the four wheels, install each alone into an empty environment, and run the main job from all of them.

Wheels are tested as wheels: an editable install hides files that the build forgets, and dependencies that a neighbour
brings along. Takes the Python versions to try as arguments, such as `3.11 3.13`; the running one by default.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PROTO, SERVER, WORKER, CTL = "quorra-proto", "quorra-server", "quorra-worker-sdk", "quorractl"
# Of the distributions of this repository, the ones that a package needs.
NEEDS = {PROTO: (), SERVER: (PROTO,), WORKER: (PROTO,), CTL: (PROTO,)}
PROGRAMS = {SERVER: "quorra-server", WORKER: "quorra-worker", CTL: "quorractl"}
EXTRAS = {SERVER: "[embedded,redis]", WORKER: "[uvloop]"}
# What the demo itself imports beside the product.
OF_DEMO = ("httpx", "rich", "pillow", "aiosmtpd")
# Modules of extras, and of what only tests have.
OPTIONAL = {"redis", "pytest", "asyncpg", "psycopg", "sqlalchemy", "opentelemetry"}
IMPORT_ALL = f"""
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in {OPTIONAL}:
                raise
"""


def main() -> int:
    wheels = _build()
    for version in sys.argv[1:] or [sys.executable]:
        for package in NEEDS:
            _try_alone(version, package, wheels)
        _try_together(version, wheels)
        print(f"{version}: {len(wheels)} wheels install alone and run the main job together")
    print(", ".join(wheel.name for wheel in wheels.values()))
    return 0


def _build() -> dict[str, Path]:
    # The folder is emptied once, not by each build: they share it.
    shutil.rmtree(DIST, ignore_errors=True)
    for package in NEEDS:
        _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(DIST), str(ROOT / "packages" / package))
    return {package: next(DIST.glob(f"{package.replace('-', '_')}-*.whl")) for package in NEEDS}


def _try_alone(version: str, package: str, wheels: dict[str, Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="quorra-wheel-") as folder:
        python = _environment(version, Path(folder), *(str(wheels[name]) for name in (package, *NEEDS[package])))
        _run(str(python), "-c", IMPORT_ALL, package.replace("-", "_"), cwd=folder)
        if package in PROGRAMS:
            _run(str(python.parent / PROGRAMS[package]), "--version", cwd=folder)


def _try_together(version: str, wheels: dict[str, Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="quorra-wheels-") as folder:
        wanted = [f"{package}{EXTRAS.get(package, '')} @ {wheel.as_uri()}" for package, wheel in wheels.items()]
        python = _environment(version, Path(folder), *wanted, *OF_DEMO)
        shutil.copytree(ROOT / "examples", Path(folder) / "examples")
        _run(str(python), "-m", "examples.demo", "--jobs", "5", cwd=folder)


def _environment(version: str, folder: Path, *wanted: str) -> Path:
    """Make an environment with nothing but what is wanted, and return its Python."""
    python = folder / "venv" / "bin" / "python"
    _run("uv", "venv", "--quiet", "--python", version, str(python.parent.parent))
    _run("uv", "pip", "install", "--quiet", "--python", str(python), *wanted)
    return python


def _run(*command: str, cwd: str | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd or ROOT)


if __name__ == "__main__":
    raise SystemExit(main())
