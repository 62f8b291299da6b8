"README.md and MEASURED.md are what their notebooks say, and what they say holds."
import ast
import importlib.util
import json
import re

import nbformat
import pytest
from conftest import ROOT, outputs

spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "readme.py")
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)

INDEX = ROOT / "nbs" / "index.ipynb"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "MEASURED.md").read_text(encoding="utf-8")
PAGES = {"README.md": TEXT, "MEASURED.md": MEASURED}
RUN = ROOT / "nbs" / "experiments" / "run_dssm.ipynb"
ROOMS = [folder.name for folder in sorted((ROOT / "nbs").iterdir()) if re.match(r"\d\d_", folder.name)]


@pytest.mark.parametrize("name", readme.PAGES)
def test_is_made_from_the_notebook(name):
    text, images = readme.render(nbformat.read(ROOT / name, as_version=4), name)
    assert text == PAGES[readme.PAGES[name]], f"{name} makes another page: make readme"
    assert {path: (ROOT / path).read_bytes() for path in images} == images
    if name != INDEX.relative_to(ROOT).as_posix(): return
    stored = {path.relative_to(ROOT).as_posix() for path in (ROOT / readme.IMAGES).iterdir()}
    assert stored == images.keys()


def pngs(path) -> list[str]:
    return [
        output["data"]["image/png"].strip()
        for output in outputs(path)
        if "image/png" in output.get("data", {})
    ]


def run_lines(metric: str) -> str:
    "What the stored run says of a metric; a wide table stands in several parts."
    table = "".join(
        [
            "".join(output["data"]["text/plain"])
            for output in outputs(RUN)
            if "\nrecall@10 = hit_rate@10 " in "".join(output.get("data", {}).get("text/plain", ""))
        ][-1]
    )
    return " ".join(line for line in table.splitlines() if line.startswith(f"{metric} "))


def test_picture_and_table_are_those_of_the_run():
    measured = re.findall(r"^\| (\w+@\d+) \|.*\| (\S+ \[.*?\]) \| (\S+ \[.*?\]) \|$", MEASURED, re.M)
    assert pngs(INDEX) == pngs(RUN)[:1], "the run was repeated: make readme"
    assert [name for name, *_ in measured] == ["recall@10", "recall@50", "ndcg@10"]
    for name, *values in measured:
        assert all(value in run_lines(name) for value in values), "the run was repeated: make readme"


def results() -> list[list[str]]:
    "Rows of the table of results: data, metric, ours, best baseline, best published."
    section = TEXT.partition("## Results")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[part.strip() for part in row] for row in rows[2:]]


def told(text: str) -> list[str]:
    "Figures of a cell without its source, behind its name, which may hold a version."
    return re.findall(r"\d\.\d+", re.sub(r"\([^)]*\)", "", text).rpartition(": ")[2])


def test_results_are_those_of_runs_and_records():
    """A row is of the stored run, of the records, or of MEASURED.md; a published figure of the list."""
    records = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    published = json.loads((ROOT / "benchmarks" / "results" / "published.json").read_text())
    rows = results()
    assert len(rows) >= 7
    for data, metric, ours, baseline, *best in rows:
        own = run_lines(metric) if data == "MovieLens-100K, leave-last" else records + MEASURED
        assert told(ours) and all(figure in own for figure in told(ours) + told(baseline)), data
        figures = {f"{one['metrics'][metric]:.4f}" for one in published if metric in one["metrics"]}
        assert set(told("".join(best))) <= figures, data


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    links = set(re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", PAGES[name]))
    assert links and [link for link in links if not (ROOT / link).is_file()] == []
    assert name != "README.md" or len(links) > 12


def test_commands_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = set(re.findall(r"^`?make (\w+)", TEXT, re.M)) | set(re.findall(r"`make (\w+)`", TEXT))
    assert {"demo", "test", "install", "lab", "export"} <= named <= set(targets)
    commands = re.findall(r"`python (benchmarks/\S+?)[ `]", MEASURED)
    assert len(commands) >= 30 and [path for path in commands if not (ROOT / path).is_file()] == []


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
    text, images = readme.render(new.new_notebook(cells=cells), "x.ipynb")
    blocks = [
        "[a](nbs/10_data/x.ipynb) [b](LICENSE) [c](https://example.com) [d](#map)",
        "```python\nprint(3)\n```",
        "```\n3\n```",
        "![a curve](nbs/images/index-1.png)",
    ]
    assert text == "\n\n".join([readme.NOTE.format("x.ipynb"), *blocks]) + "\n" and images == {
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
    with pytest.raises(ValueError, match="ZeroDivisionError"): readme.render(broken, "x.ipynb")


def test_the_map_names_every_experiment():
    written = {path.name for path in (ROOT / "nbs" / "experiments").glob("*.ipynb")}
    assert {name for name in written if f"(nbs/experiments/{name})" not in TEXT} == set()
