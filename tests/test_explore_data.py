"The page on a data set finds what was planted: order, a leak, and says it beside its number."
from conftest import ROOT, outputs, run_papermill, tail

NOTEBOOK = ROOT / "nbs" / "experiments" / "explore_data.ipynb"
SMALL = {"dataset": "planted", "planted_users": 120, "planted_items": 100, "baselines": False}


def texts(path):
    return "".join("".join(one.get("text", "")) for one in outputs(path))


def test_a_page_of_both_tasks(tmp_path):
    for task, said in (("retrieval", "negatives"), ("rank", "positive")):
        result = run_papermill(NOTEBOOK, tmp_path / f"{task}.ipynb", tmp_path, SMALL | {"task": task})
        assert result.returncode == 0, tail(result)
        found = outputs(tmp_path / f"{task}.ipynb")
        assert sum("image/png" in one.get("data", {}) for one in found) == 1
        assert said in texts(tmp_path / f"{task}.ipynb")
