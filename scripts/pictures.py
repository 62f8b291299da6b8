"""Stored pictures of the notebooks: which are small, coarse, hard to read, or in matplotlib's colours.

    python scripts/pictures.py

Fine is a picture of at least 110 dots an inch, as its file says, or 640 pixels wide; its lines have
the project's colours (`recbench.evaluate.pictures.COLORS`), which are told apart by people who do not
see red or green. Letters have at least 9 points as a page of 800 pixels shows them, on which wider
pictures shrink. How many points they have the picture's file says, or `fontsize=` in its cell, else
they are matplotlib's 10.
"""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DPI, WIDE, ENOUGH = 110, 640, 60        # ENOUGH pixels of a colour are a line of it
PAGE, POINTS, SCREEN = 800, 9, 96       # pixels of a page, least size of letters there, pixels an inch
OTHERS = ("1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "bcbd22", "17becf")


class Picture(NamedTuple):
    """A stored picture.

    Attributes:
        place: notebook and cell
        size: width and height in pixels
        dpi: as its file says; 0 where it does not
        foreign: pixels of matplotlib's colours, by colour
        letters: points of the smallest letters as drawn; 0: none
    """
    place: str
    size: tuple[int, int]
    dpi: int
    foreign: dict[str, int]
    letters: float

    @property
    def coarse(self) -> bool: return self.dpi < DPI and self.size[0] < WIDE

    @property
    def shown(self) -> float:
        "Points of the smallest letters on a page of 800 pixels."
        return self.letters * (self.dpi or DPI) / SCREEN * min(1, PAGE / self.size[0])

    @property
    def small(self) -> bool: return 0 < self.shown < POINTS


def foreign_pixels(pixels: np.ndarray) -> dict[str, int]:
    "Colours of matplotlib of which a picture has a line, and how many pixels."
    found = {}
    for name in OTHERS:
        color = np.array([int(name[place:place + 2], 16) for place in (0, 2, 4)])
        near = int((np.abs(pixels.astype(int) - color).max(2) <= 3).sum())
        if near > ENOUGH: found[name] = near
    return found


def picture(place: str, png: bytes, source: str = "") -> Picture:
    """What a picture is.

    Args:
        place: notebook and cell
        png: its bytes
        source: of its cell
    """
    with Image.open(io.BytesIO(png)) as image:
        dpi, pixels = image.info.get("dpi", (0, 0))[0], np.asarray(image.convert("RGB"))
        said = image.info.get("smallest text")
    named = re.findall(r"\b(?:fontsize|labelsize)=([0-9.]+)", source)
    letters = float(said) if said else min(map(float, named), default=10.0)
    size = pixels.shape[1], pixels.shape[0]
    return Picture(place, size, round(dpi), foreign_pixels(pixels), letters)


def pictures(folder: Path = ROOT / "nbs") -> Iterator[Picture]:
    "Every picture in the outputs of the notebooks."
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            for output in cell.get("outputs", []):
                png = output.get("data", {}).get("image/png")
                place = f"{path.relative_to(folder).as_posix()} cell {number}"
                if png: yield picture(place, base64.b64decode("".join(png)), "".join(cell["source"]))


def main() -> None:
    found = list(pictures())
    for one in found:
        if one.coarse or one.foreign or one.small:
            print(one.place, one.size, f"{one.dpi} dpi, {one.shown:.1f} points", *one.foreign)
    coarse, foreign = sum(one.coarse for one in found), sum(bool(one.foreign) for one in found)
    small = sum(one.small for one in found)
    print(f"{len(found)} pictures: {coarse} coarse, {foreign} in colours of matplotlib, {small} with "
          f"letters under {POINTS} points on a page of {PAGE} pixels")


if __name__ == "__main__": main()
