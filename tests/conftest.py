"What the whole-repository tests share, and how they are divided among processes and measured."
import compileall
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import warm
from warm import ONE_THREAD

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SHARED = ROOT.parent / "shared"  # reference data beside the checkout, where there is any
ALONE = "tests/test_notebooks.py"    # each of these tests goes where there is room
LAST = [0.0]                         # CPU seconds when the test before ended
LIMIT = 'ulimit -t "$0" && exec "$@"'
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: threads of several workers wait for each other's cores, computing


def pytest_configure(config):
    """Ctrl-C is a signal like any other in a shell's background and in a worker too.

    Imports read recbench compiled.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"): compileall.compile_dir(ROOT / "recbench", quiet=2)


def pytest_xdist_make_scheduler(config, log):
    """With `-n 2`.

    A file stays in one process, because its fixtures are dear; a notebook goes to whichever is free.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):

        def _split_scope(self, nodeid):
            return nodeid if nodeid.startswith(ALONE) else nodeid.split("::")[0]

    return ByFile(config, log)


def cpu_seconds() -> float:
    "Of this process, of its children that have ended, and of what was forked from the warm one."
    own, children = (
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own + children + warm.forked_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    "A test's report says how many CPU seconds have gone by in its process."
    report = yield
    report.cpu, LAST[:] = (cpu_seconds() - LAST[0], cpu_seconds()), [cpu_seconds()]
    return report


def pytest_collection_finish(session): LAST[:] = [cpu_seconds()]


def pytest_terminal_summary(terminalreporter):
    """The ten slowest tests, or as many as --durations says.

    Clocks tell little where other programs run, CPU seconds tell more.
    """
    shown = terminalreporter.config.getoption("durations")
    reports = [
        report for kind in terminalreporter.stats.values() for report in kind if hasattr(report, "cpu")
    ]
    if not reports: return
    own, so_far = Counter(), Counter()
    for report in reports:
        own[report.nodeid] += report.cpu[0]
        process = getattr(report, "worker_id", "")
        so_far[process] = max(so_far[process], report.cpu[1])
    terminalreporter.section(
        f"{so_far.total():.0f} CPU seconds, {own.total():.0f} of them in tests; the slowest"
    )
    for nodeid, seconds in own.most_common(10 if shown is None else shown or None):
        terminalreporter.write_line(f"{seconds:7.1f}  {nodeid}")


def run(*command, cwd: Path = ROOT, seconds: int = 120, **env: str) -> subprocess.CompletedProcess:
    "Run a command of this environment, with so many CPU seconds; output as text, exit code unchecked."
    program = BIN / command[0] if (BIN / command[0]).exists() else command[0]
    limited = ["sh", "-c", LIMIT, str(seconds), program, *map(str, command[1:])]
    variables, minutes = {**os.environ, **env}, warm.MINUTES
    return subprocess.run(
        limited, cwd=cwd, timeout=60 * minutes, env=variables, capture_output=True, text=True
    )


def tail(result: subprocess.CompletedProcess, characters: int = 3000) -> str:
    "What a failed command said last."
    return f"exit {result.returncode}\n{(result.stdout + result.stderr)[-characters:]}"


def run_papermill(
    notebook: Path | str,
    output: Path | str,
    cwd: Path,
    parameters: dict,
    shell: bool = False,
    **env: str,
):
    """Run a notebook as its user would in a folder.

    From a shell with a kernel of its own, or here with one that is forked.
    """
    options = [str(part) for key, value in parameters.items() for part in ("-p", key, value)]
    arguments = [notebook, output, "--no-progress-bar", *options]
    if shell: return run("papermill", *arguments, cwd=cwd, seconds=240, **ONE_THREAD, **env)
    return warm.run_papermill(arguments, cwd, 240, {**ONE_THREAD, **env})


def outputs(path: Path) -> list[dict]:
    "Every output of a notebook, in order."
    return [
        output
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
    ]


def executed(path: Path, pictures: int) -> list[str]:
    "Text of every output of a notebook that ran without error and kept so many pictures."
    found = outputs(path)
    assert all(output["output_type"] != "error" for output in found)
    assert sum("image/png" in output.get("data", {}) for output in found) == pictures
    return [
        "".join(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in found
    ]


def copy_tree(source: Path, target: Path):
    "Copy a folder without what running leaves behind."
    shutil.copytree(
        source,
        target,
        ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".last_checked"),
    )


def notebooks() -> list[Path]:
    return sorted(
        path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )


def name(path: Path) -> str:
    "A notebook as it is called in test names: 60_models/10_dssm."
    return path.relative_to(ROOT / "nbs").with_suffix("").as_posix()


@pytest.fixture(scope="module")
def one_thread():
    """Where OMP_NUM_THREADS says more.

    Sums of several threads may differ in the last bit from run to run.
    """
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
    for part in ("settings.ini", "setup.py", "pyproject.toml"):
        (source / part).write_bytes((ROOT / part).read_bytes())
    result = run(
        "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        source,
    )
    assert result.returncode == 0, tail(result)
    return site
