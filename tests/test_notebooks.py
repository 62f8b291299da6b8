"Every component notebook runs from top to bottom, each in a process of its own, two at a time."
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ONE_THREAD, ROOT, name, notebooks

COMPONENTS = [path for path in notebooks() if path.parent.name != "experiments"]
SECONDS = 120  # a notebook promises 30 on an idle laptop


def run_cells(path, report):
    "In a process of its own: run a notebook as nbdev_test does, write what it says to a file."
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from nbdev.test import test_nb

    passed, _ = test_nb(path, skip_flags=["slow"], basepath=str(ROOT))
    sys.exit(0 if passed else 1)


def execute(path, report, context) -> str | None:
    "What went wrong, the failing cell's traceback at its end; None if nothing did."
    process = context.Process(target=run_cells, args=(path, report))
    process.start()
    process.join(SECONDS)
    if process.exitcode == 0: return None
    process.kill()
    kind = f"still running after {SECONDS} s" if process.exitcode is None else f"exit {process.exitcode}"
    return f"{kind}\n{report.read_text(errors='replace')[-4000:]}"


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    "Notebook -> its run, started as soon as a place is free. The core room promises to work without torch: it starts without."
    wanted = [item.callspec.params["path"] for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    reports = tmp_path_factory.mktemp("reports")
    forked, fresh = multiprocessing.get_context("forkserver"), multiprocessing.get_context("spawn")
    forked.set_forkserver_preload(["torch", "torchrec", "pandas", "matplotlib.figure", "nbdev.test"])  # imported once, then forked
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        for variable, value in ONE_THREAD.items(): patch.setenv(variable, value)
        yield {path: pool.submit(execute, path, reports / name(path).replace("/", "-"), fresh if path.parent.name == "00_core" else forked) for path in wanted}


@pytest.mark.parametrize("path", COMPONENTS, ids=name)
def test_runs(path, runs):
    failure = runs[path].result()
    assert failure is None, failure


def test_a_failing_cell_is_reported(tmp_path):
    import nbformat

    cells = [nbformat.v4.new_code_cell("reached = 1"), nbformat.v4.new_code_cell("assert reached == 2, 'the cell that fails'")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "broken.ipynb")
    failure = execute(tmp_path / "broken.ipynb", tmp_path / "report", multiprocessing.get_context("spawn"))
    assert failure and "the cell that fails" in failure
