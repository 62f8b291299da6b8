"""How the code reads, held: each figure may only get better. `python scripts/figures.py --list` shows
where one is missed.
"""

import importlib.util
import shutil
import sys

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("figures", ROOT / "scripts" / "figures.py")
figures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(figures)

WIDE, FUNCTIONS, EXPORTS, SILENT, PYRIGHT = 0, 20, 0.90, 0, 55


def test_lines_fit_the_page():
    found = [
        f"{name}: {line[:80]}"
        for name, kind, source in figures.cells("")
        for line in figures.wide_lines(kind, source)
    ]
    assert len(found) <= WIDE, found


def test_functions_and_export_cells_are_short():
    cells = [
        code
        for _, kind, source in figures.cells("")
        if kind == "code" and (code := figures.exported(source)) is not None
    ]
    lengths = [length for code in cells for length in figures.function_lengths(code).values()]
    assert figures.quantile(lengths, 0.9) <= FUNCTIONS
    sizes = [sum(bool(line.strip()) for line in code.split("\n")) for code in cells]
    assert sum(size <= 20 for size in sizes) / len(sizes) >= EXPORTS


def test_parameters_are_explained():
    found = [text for face in figures.FACES for text in figures.unexplained(face)]
    assert len(found) <= SILENT, found[:20]


def test_an_unexplained_parameter_is_found():
    def silent(width: int, height: int) -> int:
        "The area; `width` in metres."
        return width * height

    assert figures.missing(silent) == ["(height)"]


def test_promises_are_one_line():
    "nbdev takes the first line of a notebook's quotation for its module's docstring."
    long = [
        name
        for name, kind, source in figures.cells("")
        if source.startswith("# ")
        and kind == "markdown"
        and "\n> " in source
        and source.count("\n> ") > 1
    ]
    assert long == []


@pytest.mark.skipif(
    not shutil.which("pyright", path=str(figures.Path(sys.executable).parent)),
    reason="pyright is not installed",
)
def test_the_type_checker_finds_no_more():
    rooms = figures.pyright_errors()
    assert sum(rooms.values()) <= PYRIGHT, rooms
