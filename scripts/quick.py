"""Run the tests that a change touches: `make quick`.

What git says is changed since the branch left main is run: the notebooks, then those whose exported
modules import theirs; the tests that are changed, that name a changed experiment or import a changed
module; and always the package in sync, the repository's rules and the linter.
"""
import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = ["tests/test_sync.py", "tests/test_repo.py"]
MOST = 24  # notebooks beside the changed ones, so that it stays within two minutes


def git(*arguments: str) -> list[str]:
    "Lines of its answer, none where it fails."
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.splitlines()


def changed() -> set[str]:
    """Paths, new ones too, that differ from where this branch left origin/main.

    Without one from the last commit.
    """
    base = git("merge-base", "origin/main", "HEAD") or ["HEAD"]
    return {*git("diff", "--name-only", base[0]), *git("ls-files", "-o", "--exclude-standard")}


def modules() -> dict[str, str]:
    "Notebook -> the module that it exports."
    found = {}
    for path in sorted((ROOT / "recbench").rglob("*.py")):
        source = re.search(r"File to edit: [./]*(nbs/\S+\.ipynb)", path.read_text(encoding="utf-8"))
        parts = path.relative_to(ROOT).with_suffix("").parts
        if source: found[source[1]] = ".".join(parts).removesuffix(".__init__")
    return found


def imported(path: Path) -> set[str]:
    "Modules of recbench that a file imports by name."
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom): continue
        module = node.module or ""
        above = package[:len(package) - node.level + 1] if node.level else ()
        found.add(".".join([*above, module]))
    return found


def touched(paths: set[str]) -> tuple[list[str], list[str]]:
    "Changed component notebooks, and those that import from them."
    exports = modules()
    ours = re.compile(r"nbs/(?!experiments).*\.ipynb")
    own = sorted(path for path in paths if ours.fullmatch(path) and (ROOT / path).exists())
    names = {exports[path] for path in own if path in exports}
    users = {path for path, module in exports.items() if names & imported(ROOT / file_of(module))}
    return own, sorted(users - {*own})


def file_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def tests(paths: set[str], names: set[str]) -> list[str]:
    "Test files that are changed, name a changed experiment or import a changed module."
    experiments = [Path(path).name for path in paths if path.startswith("nbs/experiments/")]
    found = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        named = any(name in text for name in experiments)
        if f"tests/{path.name}" in paths or named or names & imported(path):
            found.append(f"tests/{path.name}")
    return found


def notebook_test(path: str) -> str:
    return f"tests/test_notebooks.py::test_runs[{path.removeprefix('nbs/').removesuffix('.ipynb')}]"


if __name__ == "__main__":
    paths = changed()
    own, users = touched(paths)
    print(f"{len(own)} changed notebooks, {len(users)} that import from them")
    if users[MOST:]: print("not run here, `make test` does:", *users[MOST:], sep="\n  ")
    exports = modules()
    files = tests(paths, {exports[path] for path in own if path in exports})
    whole = [path for path in dict.fromkeys([*ALWAYS, *files]) if path != "tests/test_notebooks.py"]
    chosen = [*whole, *map(notebook_test, [*own, *users[:MOST]])]
    sys.exit(
        subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:], *chosen], cwd=ROOT).returncode
    )
