"""bootstrap.py on machines with their quirks; stand-ins for hatch and Python's venv module need no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The Python of an environment with hatch: shows with which environment hatch is called.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m hatch") exec env ;;
esac
"""
PYTHON_WITHOUT_HATCH = """#!/bin/sh
exit 1
"""
VENV = f"""
import sys
from pathlib import Path
python = Path(sys.argv[1], "bin", "python")
python.parent.mkdir(parents=True)
python.write_text({PYTHON!r})
python.chmod(0o755)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose `.bootstrap` is ready."""
    project = tmp_path / "project"
    bin_folder = project / ".bootstrap" / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text(PYTHON)
    (bin_folder / "python").chmod(0o755)
    (project / ".bootstrap" / "ready").touch()
    (project / "bootstrap.py").write_text((ROOT / "bootstrap.py").read_text())
    (project / "stand-ins").mkdir()
    (project / "stand-ins" / "venv.py").write_text(VENV)
    return project


def _hatch_is_called_with(project: Path, **environment: str) -> dict[str, str]:
    """Call bootstrap.py and return the environment that hatch gets from it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("UV_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, str(project / "bootstrap.py"), "demo"],
        env={**kept, "PYTHONPATH": str(project / "stand-ins"), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


def test_hatch_has_a_configuration_in_the_project_and_writes_none_elsewhere(project: Path) -> None:
    said = _hatch_is_called_with(project)

    assert Path(said["HATCH_CONFIG"]).is_file()
    assert Path(said["HATCH_CONFIG"]).is_relative_to(project)


def test_uv_keeps_its_usual_cache_where_that_can_be_written(project: Path, tmp_path: Path) -> None:
    assert "UV_CACHE_DIR" not in _hatch_is_called_with(project, HOME=str(tmp_path))


def test_uv_has_a_cache_in_the_project_where_the_home_cannot_be_written(project: Path, tmp_path: Path) -> None:
    # Not even root can write below a file.
    (tmp_path / "home").touch()

    said = _hatch_is_called_with(project, HOME=str(tmp_path / "home"))
    given = _hatch_is_called_with(project, HOME=str(tmp_path / "home"), UV_CACHE_DIR="/mine")

    assert Path(said["UV_CACHE_DIR"]).is_relative_to(project)
    assert "/mine" == given["UV_CACHE_DIR"]


def test_an_environment_whose_python_is_gone_is_made_anew(project: Path) -> None:
    python = project / ".bootstrap" / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project / "gone")

    assert _hatch_is_called_with(project)


def test_an_environment_whose_python_has_become_another_is_made_anew(project: Path) -> None:
    (project / ".bootstrap" / "venv" / "bin" / "python").write_text(PYTHON_WITHOUT_HATCH)

    assert _hatch_is_called_with(project)
