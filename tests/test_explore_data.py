"The page on a data set says the counts of that data set, for either task, and draws one picture."
from conftest import ROOT, outputs, run_papermill, tail

from recbench.data import load_dataset

NOTEBOOK = ROOT / "nbs" / "experiments" / "explore_data.ipynb"
SMALL = {"dataset": "planted", "planted_users": 120, "planted_items": 100, "baselines": False}


def texts(path):
    return "".join("".join(one.get("text", "")) for one in outputs(path))


def test_a_page_of_both_tasks(tmp_path):
    for task in ("retrieval", "rank"):
        data = load_dataset("planted", users=120, items=100, task=task)
        counts = [f"{len(data.train):,}"]
        if task == "rank":
            share = data.train.columns[data.schema.label].double().mean()
            counts.append(f"{share:.1%} of the training")
        else: counts.append(f"{len(data.items):,} items")
        result = run_papermill(NOTEBOOK, tmp_path / f"{task}.ipynb", tmp_path, SMALL | {"task": task})
        assert result.returncode == 0, tail(result)
        found = outputs(tmp_path / f"{task}.ipynb")
        assert sum("image/png" in one.get("data", {}) for one in found) == 1
        said = texts(tmp_path / f"{task}.ipynb")
        assert [count for count in counts if count not in said] == [], said[:2000]
