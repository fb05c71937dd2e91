"""Pictures to resize: the ones in a folder, or forty that are drawn here."""

import colorsys
from pathlib import Path

from PIL import Image, ImageDraw

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
DRAWN = 40
SIZE = (960, 640)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


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
