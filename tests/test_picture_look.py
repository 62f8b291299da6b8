"Pictures kept in the notebooks: size, resolution and palette. Each number may only get better."
import importlib.util
import io

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo

spec = importlib.util.spec_from_file_location("pictures", ROOT / "scripts" / "pictures.py")
pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)

COARSE, FOREIGN, SMALL = 0, 0, 0


@pytest.fixture(scope="module")
def stored():
    return list(pictures.pictures())


def test_no_more_are_coarse(stored):
    coarse = [one.place for one in stored if one.coarse]
    assert len(stored) > 130 and len(coarse) <= COARSE, coarse


def test_no_more_have_colours_of_their_own(stored):
    foreign = [one.place for one in stored if one.foreign]
    assert len(foreign) <= FOREIGN, foreign


def test_letters_are_read_at_800_pixels(stored):
    small = [f"{one.place}: {one.shown:.1f}" for one in stored if one.small]
    assert len(small) <= SMALL, small


def test_small_letters_are_found():
    def png(width: int, **told) -> bytes:
        file, said = io.BytesIO(), PngInfo()
        for name, value in told.items(): said.add_text(name.replace("_", " "), value)
        Image.new("RGB", (width, 9), "white").save(file, format="png", dpi=(110, 110), pnginfo=said)
        return file.getvalue()

    wide, narrow, source = png(1100), png(700), "axes.legend(fontsize=8)"
    assert pictures.picture("a", wide).small and not pictures.picture("b", narrow, source).small
    assert pictures.picture("c", png(880), source).small
    assert not pictures.picture("d", png(1100, smallest_text="11"), source).small


def test_what_is_coarse_or_foreign_is_found():
    def png(color: str, size: tuple[int, int], **told) -> bytes:
        image, file = Image.new("RGB", size, "white"), io.BytesIO()
        image.paste(color, (0, 0, 50, 2))
        image.save(file, format="png", **told)
        return file.getvalue()

    fine = pictures.picture("a", png("#0072B2", (500, 90), dpi=(110, 110)))
    assert not fine.coarse and not fine.foreign and fine.size == (500, 90)
    assert pictures.picture("b", png("#1f77b4", (600, 90), dpi=(80, 80))).coarse
    assert pictures.picture("c", png("#1f77b4", (600, 90))).coarse
    silent = pictures.picture("d", png("#1f77b4", (700, 90)))
    assert not silent.coarse and silent.foreign == {"1f77b4": 100}
    assert pictures.foreign_pixels(np.full((9, 9, 3), (31, 119, 180), np.uint8)) == {"1f77b4": 81}
