"Every component notebook runs from top to bottom, each in a process of its own."
import multiprocessing

import pytest
import warm
from conftest import ROOT, name, notebooks

COMPONENTS = [path for path in notebooks() if path.parent.name != "experiments"]
# of the CPU; a notebook promises 30 on an idle laptop, and a busy one counts up to four for one
SECONDS = 120


def execute(path, report, context, seconds=SECONDS) -> str | None:
    "What went wrong, the failing cell's traceback at its end; None if nothing did."
    how = warm.ended(warm.start(seconds, warm.run_cells, path, report, ROOT, context=context), seconds)
    return f"{how}\n{report.read_text(errors='replace')[-4000:]}" if how else None


@pytest.mark.parametrize("path", COMPONENTS, ids=name)
def test_runs(path, tmp_path):
    "The core room promises to work without torch: it starts without."
    fresh = path.parent.name == "00_core"
    failure = execute(
        path, tmp_path / "report", multiprocessing.get_context("spawn") if fresh else warm.context()
    )
    assert failure is None, failure


def broken(folder, *sources):
    "A notebook of such cells."
    import nbformat

    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "broken.ipynb")
    return folder / "broken.ipynb"


def test_a_failing_cell_is_reported(tmp_path):
    path = broken(tmp_path, "reached = 1", "assert reached == 2, 'the cell that fails'")
    failure = execute(path, tmp_path / "report", warm.context())
    assert failure and "the cell that fails" in failure


def test_a_notebook_that_does_not_end_is_stopped(tmp_path):
    path = broken(tmp_path, "print('begun', flush=True)", "while True: pass")
    assert execute(path, tmp_path / "report", warm.context(), seconds=1).startswith(
        "stopped after 1 CPU seconds"
    )


def test_notebooks_begin_without_threads(tmp_path):
    "So that no thread pool is broken by the fork."
    path = broken(
        tmp_path,
        "import sys, threading, torch",
        "assert 'recbench.train' in sys.modules and threading.active_count() < 4",
        "assert torch.get_num_threads() == 1",
    )
    failure = execute(path, tmp_path / "report", warm.context())
    assert failure is None, failure


def test_a_name_that_a_notebook_does_not_import_is_unknown(tmp_path):
    path = broken(tmp_path, "create_model")
    failure = execute(path, tmp_path / "report", warm.context())
    assert failure and "name 'create_model' is not defined" in failure
