"The experiment of several tasks as its users run it, small: gates, two tasks, both answers."

import papermill
import pytest
from conftest import ROOT, executed, run_papermill, tail

NOTEBOOK = ROOT / "nbs" / "experiments" / "run_multitask.ipynb"
SMALL = {
    "planted_users": 60, "planted_items": 100, "epochs": 1, "hidden_units": "16-8",
    "tower_units": "8-4",
    "draws": 20, "baselines": False
}


def test_has_few_parameters_that_are_documented():
    known = papermill.inspect_notebook(str(NOTEBOOK))
    assert known.keys() >= {"model", "dataset", "labels", "epochs", "seed", "task_weighting"}
    assert len(known) <= 20 and all(one["help"] for one in known.values())


@pytest.mark.parametrize(("model", "pictures", "asked"), [
    ("PLE", 4, "conversion"), ("ESMM", 2, "conversion given click"),
])
def test_a_whole_run(model, pictures, asked, tmp_path):
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, SMALL | {"model": model})
    assert result.returncode == 0, tail(result)
    texts = executed(tmp_path / "out.ipynb", pictures)
    table = texts[-1]
    assert all(name in table for name in (model, "alone", f"{model} - alone", "ceiling", "rows")), table
    assert any(asked in text and "together - alone" in text for text in texts)
