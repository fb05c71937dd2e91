"""Pictures to resize: the ones in a folder, or forty that are drawn here."""

import colorsys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, UnidentifiedImageError

DRAWN = 40
SIZE = (960, 640)


class NoPictures(Exception):
    """There is nothing to resize; the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """The pictures of a folder, and what else is in it, with the reason why it is left out."""

    pictures: list[Path]
    left_out: list[str]


def pictures_in(folder: Path) -> Found:
    """Return the pictures of a folder, whatever their names end in; subfolders are not looked into.

    Raises:
        NoPictures: The folder does not exist, cannot be read, or has no picture.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise NoPictures(f"--pictures {folder}: {error.strerror}. Name a folder with pictures.") from error
    found = Found([], [])
    for file in files:
        problem = _problem(file)
        if problem is None:
            found.pictures.append(file)
        else:
            found.left_out.append(f"{file.name!a}: {problem}")
    if not found.pictures:
        raise NoPictures(f"--pictures {folder}: none of its {len(files)} files is a picture.")
    return found


def _problem(file: Path) -> str | None:
    """Say why a file cannot be resized, or None if it can."""
    try:
        # The name travels in a payload, which is JSON.
        str(file).encode()
        with Image.open(file) as picture:
            picture.load()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except UnidentifiedImageError:
        return "is no picture"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"is a picture that cannot be read: {error}"
    return None


def draw_pictures(folder: Path, count: int = DRAWN) -> list[Path]:
    """Draw pictures that differ from each other, and return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number / count, 0.6, 0.9))
        picture = Image.new("RGB", SIZE, (red, green, blue))
        pen = ImageDraw.Draw(picture)
        for ring in range(3 + number % 7):
            inset = 20 + ring * 28
            pen.ellipse((inset, inset, SIZE[0] - inset, SIZE[1] - inset), outline="white", width=4)
        path = folder / f"picture-{number:02d}.png"
        picture.save(path)
        paths.append(path)
    return paths
