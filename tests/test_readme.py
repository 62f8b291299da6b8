"README.md is what its notebook says, and what it says holds."
import ast
import importlib.util
import re

import nbformat
import pytest
from conftest import ROOT, outputs

spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "readme.py")
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)

INDEX = ROOT / "nbs" / "index.ipynb"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
ROOMS = [folder.name for folder in sorted((ROOT / "nbs").iterdir()) if re.match(r"\d\d_", folder.name)]


def test_is_made_from_the_notebook():
    text, images = readme.render(nbformat.read(INDEX, as_version=4))
    assert text == TEXT, "README.md is not what nbs/index.ipynb makes: make readme"
    assert {path: (ROOT / path).read_bytes() for path in images} == images
    assert {
        path.relative_to(ROOT).as_posix() for path in (ROOT / readme.IMAGES).iterdir()
    } == images.keys()


def pngs(path) -> list[str]:
    return [
        output["data"]["image/png"].strip()
        for output in outputs(path)
        if "image/png" in output.get("data", {})
    ]


def test_picture_and_table_are_those_of_the_run():
    run = ROOT / "nbs" / "experiments" / "run_dssm.ipynb"
    table = "".join(
        [
            "".join(output["data"]["text/plain"])
            for output in outputs(run)
            if "recall@10 [" in "".join(output.get("data", {}).get("text/plain", ""))
        ][-1]
    )
    measured = re.findall(r"^\| (\w+@\d+) \|.*\| (\S+ \[.*?\]) \| (\S+ \[.*?\]) \|$", TEXT, re.M)
    assert pngs(INDEX) == pngs(run)[:1], "the run was repeated: make readme"
    assert [name for name, *_ in measured] == ["recall@10", "recall@50", "ndcg@10"]
    for name, *values in measured:
        lines = " ".join(
            line for line in table.splitlines() if line.startswith(f"{name} ")
        )  # a wide table stands in several parts
        assert all(value in lines for value in values), "the run was repeated: make readme"


def test_links_lead_somewhere():
    links = set(re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", TEXT))
    assert len(links) > 12 and [link for link in links if not (ROOT / link).is_file()] == []


def test_commands_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = set(re.findall(r"^`?make (\w+)", TEXT, re.M)) | set(re.findall(r"`make (\w+)`", TEXT))
    assert {"demo", "test", "install", "lab", "export"} <= named <= set(targets)
    assert [path for path in re.findall(r"`python (\S+)`", TEXT) if not (ROOT / path).is_file()] == []


def test_map_lists_every_room_in_order():
    listed = re.findall(r"^\| `(\d\d_\w+)` \| `recbench\.(\w+)` ", TEXT, re.M)
    assert [folder for folder, _ in listed] == ROOMS
    assert all(folder[3:] == package for folder, package in listed)


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_from_above(room):
    above = {name[3:] for name in ROOMS[:ROOMS.index(room) + 1]}
    for path in (ROOT / "recbench" / room[3:]).glob("*.py"):
        nodes = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
        ]
        modules = [node.module or "" for node in nodes if node.level == 2] + [
            node.module.removeprefix("recbench.")
            for node in nodes
            if (node.module or "").startswith("recbench.")
        ]
        used = {module.split(".")[0] for module in modules}
        assert used <= above, f"{path.name} imports from {used - above}"


def test_render():
    new = nbformat.v4
    streams = [
        new.new_output("stream", text="3\n"),
        new.new_output("stream", name="stderr", text="a warning"),
    ]
    picture = new.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Image>"})
    cells = [
        new.new_markdown_cell(
            "[a](10_data/x.ipynb) [b](../LICENSE) [c](https://example.com) [d](#map)"
        ),
        new.new_code_cell("#| hide\nx = 1", outputs=[new.new_output("stream", text="never seen")]),
        new.new_code_cell("print(3)", outputs=streams),
        new.new_code_cell("#| hide_input\n#| fig-alt: a curve\ndraw()", outputs=[picture]),
    ]
    text, images = readme.render(new.new_notebook(cells=cells))
    blocks = [
        "[a](nbs/10_data/x.ipynb) [b](LICENSE) [c](https://example.com) [d](#map)",
        "```python\nprint(3)\n```",
        "```\n3\n```",
        "![a curve](nbs/images/index-1.png)",
    ]
    assert text == "\n\n".join([readme.NOTE, *blocks]) + "\n" and images == {
        "nbs/images/index-1.png": b"\0\0\0"
    }
    broken = new.new_notebook(
        cells=[
            new.new_code_cell(
                "1 / 0",
                outputs=[new.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])],
            )
        ]
    )
    with pytest.raises(ValueError, match="ZeroDivisionError"): readme.render(broken)
