"What a user types is completed and leads to its definition: jedi, as JupyterLab asks it."
from pathlib import Path

import pytest
from conftest import ROOT

jedi = pytest.importorskip("jedi")

SNIPPET = """from recbench.data import Dataset, load_dataset
from recbench.train import ExponentialAverage, Run, Trainer
def use(dataset: Dataset, run: Run):
    trainer = Trainer(None, dataset)
    average = ExponentialAverage()
    {}
"""
KNOWN = {
    "trainer.fit": "train/trainer.py",
    "trainer.load_state_dict": "train/trainer.py",
    "run.recommend": "train/lists.py:recommend_items",
    "dataset.seen": "data/sets/dataset.py",
    "average.swap": "train/averages.py",
    "average.state_dict": "train/averages.py",
}


@pytest.mark.parametrize("typed", KNOWN)
def test_completes_and_jumps_to_its_definition(typed):
    text = SNIPPET.format(typed)
    script = jedi.Script(text, path=ROOT / "snippet.py", project=jedi.Project(ROOT))
    line, column = len(text.splitlines()), 4 + len(typed)
    name = typed.split(".")[1]
    file, _, function = KNOWN[typed].partition(":")
    assert name in [found.name for found in script.complete(line, column - len(name))]
    found = script.infer(line, column)
    places = [Path(str(one.module_path)) for one in found]
    assert found and all(
        one.type == "function" and one.name == (function or name) and one.line for one in found
    ), found
    assert places == [ROOT / "recbench" / file]
