"""The ranking experiment as its users run it: from its folder, from the root on a folder of rows, and
with an installed package.
"""

import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from conftest import ROOT, executed, run_papermill, tail
from test_guests import MODULE

RANK = ROOT / "nbs" / "experiments" / "run_rank.ipynb"
SMALL = {
    "dataset": "planted",
    "planted_users": 60,
    "planted_items": 100,
    "epochs": 1,
    "hidden_units": "16-8",
    "importance_epochs": 1,
    "draws": 20,
}
SHORT = {**SMALL, "baselines": False, "variational_dropout": False}
DOCUMENTED = {
    "model",
    "dataset",
    "split",
    "embedding_dim",
    "hidden_units",
    "epochs",
    "batch_size",
    "learning_rate",
    "table_learning_rate",
    "seed",
    "device",
    "mixed_precision",
    "variational_dropout",
    "baselines",
    "run_dir",
}
SCHEMA = """
files: {events: events.parquet}
label: click
split: part
features:
- {kind: id, name: user_id, side: user}
- {kind: id, name: item_id, side: item}
"""


def check_result(path, pictures: int, columns: list[str]) -> list[str]:
    """Pictures that survive, no error, and a final table with every metric and every competitor.

    The text of all outputs.
    """
    texts = executed(path, pictures)
    table = texts[-1]
    assert all(f"\n{metric} " in table for metric in ("auc", "gauc", "logloss")) and all(
        column in table for column in columns
    ), table
    return texts


def test_has_the_documented_parameters():
    assert papermill.inspect_notebook(str(RANK)).keys() >= DOCUMENTED


def test_a_whole_run_from_its_own_folder(tmp_path):
    result = run_papermill(RANK.name, tmp_path / "out.ipynb", RANK.parent, SMALL)
    assert result.returncode == 0, tail(result)
    texts = check_result(
        tmp_path / "out.ipynb",
        5,
        ["DeepFM", "means", "logistic regression", "trees", "ceiling", "DeepFM - trees"],
    )
    assert any("7 features" in text and "all 10 features" in text for text in texts)


def test_a_folder_of_rows_from_the_root(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "user_id": rng.integers(30, size=1500),
            "item_id": rng.integers(40, size=1500),
            "timestamp": np.arange(1500),
            "part": np.repeat(["train", "valid", "test"], [1000, 250, 250]),
        }
    )
    rows.assign(click=((rows.user_id + rows.item_id) % 3 == 0).astype(int)).to_parquet(
        tmp_path / "events.parquet"
    )
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    result = run_papermill(
        "nbs/experiments/run_rank.ipynb",
        tmp_path / "out.ipynb",
        ROOT,
        {**SHORT, "dataset": tmp_path, "model": "MultiTowerDIN"},
    )
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 3, ["MultiTowerDIN"])


def test_runs_from_elsewhere_with_an_installed_package(tmp_path, installed):
    notebook = installed / "share" / "recbench" / "experiments" / "run_rank.ipynb"
    result = run_papermill(
        notebook,
        "out.ipynb",
        tmp_path,
        {**SHORT, "model": "DCNV2", "run_dir": "run"},
        PYTHONPATH=str(installed),
    )
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 3, ["DCNV2"])
    assert list((tmp_path / "run").iterdir())


GUEST = """
from recbench.models import RANK_CONFIGS

def flat_fm(features, sizes):
    made = RANK_CONFIGS["DeepFM"](features, sizes)
    return {"feature_groups": made["feature_groups"], "flat_fm": made["deepfm"] | {"factor": 0.5}}

RANK_CONFIGS["FlatFM"] = flat_fm
"""


def test_a_guest_model_of_a_module(tmp_path):
    (tmp_path / "my_rank_nets.py").write_text(MODULE + GUEST)
    parameters = {**SHORT, "module": "my_rank_nets", "model": "FlatFM", "run_dir": "run"}
    result = run_papermill(RANK, tmp_path / "out.ipynb", tmp_path, parameters)
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 3, ["FlatFM"])
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["guests"] == {"flat_fm": "my_rank_nets", "FlatFM": "my_rank_nets"}
    assert config["model"]["config"]["flat_fm"]["factor"] == 0.5


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"modle": "DeepFM"}, "modle"), ({"epochs": "five"}, "epochs")],
    ids=["unknown name", "wrong type"],
)
def test_bad_parameter_is_refused(parameters, said, tmp_path):
    result = run_papermill(RANK, tmp_path / "out.ipynb", tmp_path, parameters)
    assert result.returncode != 0 and said in result.stderr and "TypeError" in result.stderr, tail(
        result
    )
