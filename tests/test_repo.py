"What must hold for the repository as a whole."
import ast
import json
import re
import subprocess

import pytest
from conftest import BIN, ROOT, name, notebooks, run

# Written with character classes so that these lines do not find themselves.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:[t]mp|[w]ork|[h]ome/\w+|[r]oot|[U]sers/\w+|opt/[p]ypi)\b")
REGISTRY_HOST = re.compile(
    r"[p]ypi\.org|[p]ythonhosted|[c]onda\.anaconda|[/]simple/|[p]roxy\.golang|[m]irror[s]?\.\w+\.\w+"
)
GENERATED = {
    ".venv",
    ".git",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    "build",
    "dist",
    "runs",
    "artifacts",
    "_proc",
    "_docs",
    "data",
}


def tracked() -> list:
    "Files of the repository: what git would take, or without git what nobody generates."
    listed = (
        subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
        )
        if (ROOT / ".git").exists()
        else None
    )
    if listed and listed.returncode == 0:
        return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file()
        and not GENERATED & set(path.relative_to(ROOT).parts)
        and path.name != "out.ipynb"
    ]


def readable(path) -> str:
    "Text of a file; of a notebook its sources and text outputs, without pictures."
    if path.suffix == ".ipynb": return notebook_text(json.loads(path.read_text(encoding="utf-8")))
    try: return path.read_text(encoding="utf-8")
    except UnicodeDecodeError: return ""


def notebook_text(notebook) -> str:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    forms = [
        value
        for output in outputs
        for kind, value in {"text": output.get("text", ""), **output.get("data", {})}.items()
        if kind.startswith("text")
    ]
    return "\n".join(
        "".join(part) for part in [*(cell["source"] for cell in notebook["cells"]), *forms]
    )


def findings(pattern) -> list[str]:
    "file: match, for every match in the repository."
    return [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        for match in pattern.finditer(readable(path))
    ]


def test_no_machine_paths():
    assert findings(MACHINE_PATH) == []
    assert MACHINE_PATH.search("cat " + "/tm" + "p/x") and not MACHINE_PATH.search(
        "https://example.com/home"
    )


def test_no_registry_hosts():
    assert findings(REGISTRY_HOST) == []


def calls(tree) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe(source: str) -> list[str]:
    "Calls and imports that run what they read."
    tree = ast.parse(source)
    found = [ast.unparse(call) for call in calls(tree) if ast.unparse(call.func) in ("eval", "exec")]
    found += [
        ast.unparse(call)
        for call in calls(tree)
        if ast.unparse(call.func) == "torch.load"
        and not any(
            word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords
        )
    ]
    imported = [
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    ]
    imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return found + [
        module
        for module in imported
        if module.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib")
    ]


def test_nothing_runs_what_it_reads():
    found = {
        str(path.relative_to(ROOT)): unsafe(path.read_text(encoding="utf-8"))
        for folder in ("recbench", "benchmarks", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    }
    # the index of a distributed checkpoint is a pickle; an unpickler with a list of names reads it
    assert {path: lines for path, lines in found.items() if lines} == {
        "recbench/interop/tzrec_run.py": ["pickle"]
    }
    assert unsafe(
        "import pickle\neval('1')\ntorch.load(f)\ntorch.load(f, weights_only=True)\nmodel.eval()"
    ) == ["eval('1')", "torch.load(f)", "pickle"]


def test_import_is_light():
    """`import recbench` takes under 0.3 CPU seconds beyond an empty Python, and loads neither torch nor
    torchrec.
    """
    code = ("import time; start = time.process_time(); import recbench, sys; print(time.process_time() "
            "- start, {'torch', 'torchrec', 'pandas'} & set(sys.modules))")
    outputs = [run("python", "-c", code, cwd=BIN).stdout.split(maxsplit=1) for _ in range(3)]
    assert min(float(seconds) for seconds, _ in outputs) < 0.3
    assert outputs[0][1].strip() == "set()"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout: nothing to ignore")
@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("data/movielens-100k/ml-100k.inter", True),
        ("out.ipynb", True),
        (".venv/x", True),
        ("runs/a/b", True),
        ("nbs/experiments/runs/a", True),
        ("benchmarks/results/runs/a.json", False),
        ("recbench/data/table.py", False),
        ("nbs/10_data/30_table.ipynb", False),
        ("data/README.md", False),
    ],
)
def test_git_ignores(path, ignored):
    result = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT)
    assert (result.returncode == 0) == ignored


@pytest.fixture(params=notebooks(), ids=name)
def notebook(request):
    return request.param


def test_notebook_is_small(notebook):
    assert notebook.stat().st_size < 150_000


def test_notebook_opens_with_a_promise(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells[:3] if cell["cell_type"] == "markdown")
    assert re.match(r"# \S.*\n+> \S", text), f"starts with {text[:80]!r}"


def test_notebook_is_clean(notebook):
    "As nbdev_clean leaves it: no counts, no metadata beyond tags, no error kept."
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert {"kernelspec"} <= set(content["metadata"]) <= {"kernelspec", "widgets"}
    for cell in content["cells"]:
        assert cell.get("execution_count") is None and set(cell["metadata"]) <= {"tags"}, cell["id"]
        for output in cell.get("outputs", []):
            assert output.get("execution_count") is None and output["output_type"] != "error", cell[
                "id"
            ]


def modules() -> dict[str, str]:
    "Module of the package and the notebook that it is exported from, `10_data/10_rows/30_table`."
    texts = {
        path.relative_to(ROOT / "nbs").with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for path in (ROOT / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    found = {place: re.search(r"#\| default_exp ([\w.]+)", text) for place, text in texts.items()}
    return {match[1]: place for place, match in found.items() if match}


def imported(place: str) -> set[str]:
    "Modules of the package that a notebook's export cells import, at the top or within a function."
    cells = json.loads((ROOT / "nbs" / f"{place}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = [
        match
        for source in sources
        if source.startswith("#| export")
        for match in re.findall(r"^ *(?:from|import) recbench\.([\w.]+)", source, re.M)
    ]
    return set(found)


def test_notebooks_import_only_from_lower_numbers():
    """Rooms, rooms within rooms and notebooks are numbered in the order in which they can be read.

    No number stands twice.
    """
    places = modules()
    assert len(places) > 150 and imported("10_data/20_sets/20_dataset") >= {
        "data.rows.batch",
        "data.rows.table",
    }
    wrong = {
        (place, places[name])
        for place in places.values()
        for name in imported(place)
        if name in places and places[name] >= place
    }
    assert not wrong, sorted(wrong)
    numbers = [
        (place.rpartition("/")[0], place.rpartition("/")[2].split("_")[0]) for place in places.values()
    ]
    assert sorted(number for number in set(numbers) if numbers.count(number) > 1) == []


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "experiments").glob("*.ipynb")), ids=name)
def test_experiment_keeps_its_parameters_tag(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and not any(
        "injected-parameters" in cell["metadata"].get("tags", []) for cell in cells
    )


def test_lint():
    result = run("ruff", "check", "--output-format", "concise", ROOT)
    assert result.returncode == 0, result.stdout
