"What the whole-repository tests share."
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SHARED = ROOT.parent / "shared"  # reference data beside the checkout, where there is any
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def run(*command, cwd: Path = ROOT, timeout: float = 120, **env: str) -> subprocess.CompletedProcess:
    "Run a command of this environment; output as text, exit code unchecked."
    program = BIN / command[0] if (BIN / command[0]).exists() else command[0]
    return subprocess.run([program, *map(str, command[1:])], cwd=cwd, timeout=timeout, env={**os.environ, **env}, capture_output=True, text=True)


def tail(result: subprocess.CompletedProcess, characters: int = 3000) -> str:
    "What a failed command said last."
    return f"exit {result.returncode}\n{(result.stdout + result.stderr)[-characters:]}"


def run_papermill(notebook: Path | str, output: Path | str, cwd: Path, parameters: dict, **env: str) -> subprocess.CompletedProcess:
    "Run a notebook as its user would, from a shell in a folder."
    options = [part for key, value in parameters.items() for part in ("-p", key, value)]
    return run("papermill", notebook, output, "--no-progress-bar", *options, cwd=cwd, timeout=240, **ONE_THREAD, **env)


def outputs(path: Path) -> list[dict]:
    "Every output of a notebook, in order."
    return [output for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] for output in cell.get("outputs", [])]


def executed(path: Path, pictures: int) -> list[str]:
    "Text of every output of a notebook that ran without error and kept so many pictures."
    found = outputs(path)
    assert all(output["output_type"] != "error" for output in found)
    assert sum("image/png" in output.get("data", {}) for output in found) == pictures
    return ["".join(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in found]


def copy_tree(source: Path, target: Path):
    "Copy a folder without what running leaves behind."
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".last_checked"))


def notebooks() -> list[Path]:
    return sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def name(path: Path) -> str:
    "A notebook as it is called in test names: 60_models/10_dssm."
    return path.relative_to(ROOT / "nbs").with_suffix("").as_posix()


@pytest.fixture(scope="module")
def one_thread():
    "Sums of several threads may differ in the last bit from run to run."
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    "A folder that holds recbench as `pip install .` puts it, away from the checkout."
    site = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for part in ("recbench", "nbs/experiments"): copy_tree(ROOT / part, source / part)
    for part in ("settings.ini", "setup.py", "pyproject.toml"): (source / part).write_bytes((ROOT / part).read_bytes())
    result = run("python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site, source)
    assert result.returncode == 0, tail(result)
    return site
