"""The main job with pictures of one's own."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def _demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "examples.demo", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def _picture(path: Path, size: tuple[int, int], mode: str = "RGB") -> None:
    Image.new(mode, size).save(path)


def test_every_picture_of_a_folder_becomes_a_thumbnail_and_the_rest_is_named(tmp_path: Path) -> None:
    _picture(tmp_path / "wide.jpg", (800, 300))
    _picture(tmp_path / "smaller than a thumbnail.png", (20, 30))
    _picture(tmp_path / "same.png", (400, 400), "RGBA")
    _picture(tmp_path / "same.webp", (300, 500))
    _picture(tmp_path / "a line.gif", (2000, 1), "P")
    _picture(tmp_path / f"{'ä' * 120}.bmp", (200, 200))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "[red]torn.jpg").write_bytes((tmp_path / "wide.jpg").read_bytes()[:400])
    (tmp_path / "folder.jpg").mkdir()

    done = _demo("--pictures", str(tmp_path), "--jobs", "2")
    told = " ".join(done.stdout.split())

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "ok │ thumbnails opened and measured │ 6 │ 6" in told
    assert "left out: 'notes.txt': is no picture" in told
    assert "left out: '[red]torn.jpg': is" in told


def test_a_folder_without_pictures_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")

    without = _demo("--pictures", str(tmp_path))
    missing = _demo("--pictures", str(tmp_path / "missing"))
    a_file = _demo("--pictures", str(tmp_path / "notes.txt"))

    assert (2, 2, 2) == (without.returncode, missing.returncode, a_file.returncode)
    assert "none of its 1 files is a picture" in " ".join(without.stdout.split())
    assert "No such file or directory" in " ".join(missing.stdout.split())
    assert "Not a directory" in " ".join(a_file.stdout.split())
    assert "Starting a server" not in without.stdout + missing.stdout + a_file.stdout
