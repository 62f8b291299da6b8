"""The matching experiment as its users run it: every model from its folder, a folder of events from the
root, and with an installed package.
"""

import re

import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from conftest import ROOT, executed, run_papermill, tail
from test_guests import MODULE

MATCH = ROOT / "nbs" / "experiments" / "run_match.ipynb"
QUICK = "planted_users: 60, planted_items: 100, output_dim: 8, draws: 20, index_queries: 20"
SMALL = {
    "dataset": "planted",
    "epochs": 1,
    "hidden_units": "16-8",
    "embedding_dim": 8,
    "top_k": 5,
    "settings": QUICK,
}
SHORT = {**SMALL, "baselines": False, "settings": f"{QUICK}, index: false"}
DOCUMENTED = {
    "model",
    "dataset",
    "protocol",
    "top_k",
    "embedding_dim",
    "hidden_units",
    "epochs",
    "batch_size",
    "negatives",
    "num_sample",
    "log_q",
    "temperature",
    "learning_rate",
    "table_learning_rate",
    "seed",
    "device",
    "baselines",
    "run_dir",
}
MODELS = ["DSSM", "DSSMV2", "DAT", "MIND", "SASRec", "HSTUMatch", "TDM"]
SCHEMA = """
files: {events: events.parquet}
user_key: user_id
item_key: item_id
timestamp: timestamp
features:
- {kind: id, name: user_id, side: user}
- {kind: id, name: item_id, side: item}
"""


def check_result(path, pictures: int, columns: list[str], protocol: str = "leave-last"):
    """Pictures that survive, no error, the table beside accuracy, and a final one with every metric and
    every competitor.
    """
    texts = executed(path, pictures)
    assert any(
        all(
            re.search(rf"^{row}@5 ", text, re.M)
            for row in ("recall", "diversity", "novelty", "popular share", "coverage", "gini")
        )
        for text in texts
    )
    table = texts[-1]
    for metric in ("recall", "ndcg", "hit_rate", "mrr"):
        assert re.search(rf"^(.* = )?{metric}@5 ", table, re.M), table
    # with one held-out item a user the two are equal, and said once
    assert (re.search("^recall@5 = hit_rate@5 ", table, re.M) is not None) == (protocol == "leave-last")
    assert all(column in table for column in columns), table
    assert table.splitlines()[1].startswith(f"full, {protocol}, seen masked ")


def test_has_the_documented_parameters():
    assert papermill.inspect_notebook(str(MATCH)).keys() == DOCUMENTED | {"settings", "module"}
    assert len(DOCUMENTED) + 2 == 20   # what a reader sees at once; all others are in `settings`


def test_a_settings_file_and_parameters_that_are_none(tmp_path):
    (tmp_path / "own.yaml").write_text("\n".join(SHORT["settings"].split(", ")))
    result = run_papermill(
        MATCH,
        tmp_path / "out.ipynb",
        tmp_path,
        {**SHORT, "settings": "own.yaml", "model": "SASRec", "hidden_units": None, "batch_size": None},
    )
    assert result.returncode == 0, tail(result)
    texts = executed(tmp_path / "out.ipynb", 6)
    assert any(
        "recipe: Recipe(embedding_dim=8, init_std=0.02, batch_size=32, epochs=1" in text
        for text in texts
    )


def test_a_whole_run_from_its_own_folder(tmp_path):
    result = run_papermill(MATCH.name, tmp_path / "out.ipynb", MATCH.parent, SMALL)
    assert result.returncode == 0, tail(result)
    check_result(
        tmp_path / "out.ipynb",
        8,
        ["DSSM", "popularity", "Markov", "ItemKNN", "EASE", "ceiling", "DSSM - EASE"],
    )


@pytest.mark.parametrize("model", MODELS[1:])
def test_every_model(model, tmp_path):
    result = run_papermill(MATCH, tmp_path / "out.ipynb", tmp_path, {**SHORT, "model": model})
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 6, [model])


def test_lists_that_must_last(tmp_path):
    lasting = {
        "hidden_units": "",
        "settings": QUICK.replace("output_dim: 8", "output_dim: 0")
        + (", history_lag: true, equal_user_weight: true, popularity_half_life_days: 0.0001, features: "
           "[item_id, history], share_embedding: true"),
    }
    result = run_papermill(MATCH, tmp_path / "out.ipynb", tmp_path, {**SHORT, **lasting})
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 7, ["DSSM"])
    assert any(
        "user (DEEP): history\n" in text and "item (DEEP): item_id" in text
        for text in executed(tmp_path / "out.ipynb", 7)
    )


def test_a_folder_of_events_from_the_root(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "user_id": rng.integers(40, size=1500),
            "item_id": rng.integers(400, size=1500),
            "timestamp": np.arange(1500),
        }
    )
    rows.to_parquet(tmp_path / "events.parquet")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    result = run_papermill(
        "nbs/experiments/run_match.ipynb",
        tmp_path / "out.ipynb",
        ROOT,
        {**SHORT, "dataset": tmp_path, "negatives": "mixed", "num_sample": 20, "batch_size": 64},
    )
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 6, ["DSSM"], "global-time 80/10/10")


def test_runs_from_elsewhere_with_an_installed_package(tmp_path, installed):
    notebook = installed / "share" / "recbench" / "experiments" / "run_match.ipynb"
    result = run_papermill(
        notebook, "out.ipynb", tmp_path, {**SHORT, "run_dir": "run"}, PYTHONPATH=str(installed)
    )
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 6, ["DSSM"])
    assert list((tmp_path / "run").iterdir())


GUEST = """
from recbench.models import MATCH_CONFIGS

def half_dssm(sides, sizes):
    made = MATCH_CONFIGS["DSSM"](sides, sizes)
    return {"feature_groups": made["feature_groups"], "half_dssm": made["dssm"] | {"scale": 0.25}}

MATCH_CONFIGS["HalfDSSM"] = half_dssm
"""


@pytest.mark.parametrize("beside", [True, False], ids=["in the working directory", "on the path"])
def test_a_guest_model_of_a_module(beside, tmp_path):
    folder = tmp_path if beside else tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    (folder / "my_match_nets.py").write_text(MODULE + GUEST)
    path = {} if beside else {"PYTHONPATH": f"{folder}:{ROOT}"}
    parameters = {**SHORT, "module": "my_match_nets", "model": "HalfDSSM", "run_dir": "run"}
    result = run_papermill(MATCH, tmp_path / "out.ipynb", tmp_path, parameters, **path)
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb", 6, ["HalfDSSM"])
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["guests"] == {"half_dssm": "my_match_nets", "HalfDSSM": "my_match_nets"}
    assert config["model"]["config"]["half_dssm"]["scale"] == 0.25


REFUSED = {
    "unknown model": ({"model": "MIDN"}, "did you mean 'MIND'"),
    "protocol of another data set": ({"protocol": "global-time"}, "leave protocol empty"),
    "nothing to choose by": ({"settings": "validation: false"}, "under 'global-time'"),
    "history of a sequence model": (
        {"model": "SASRec", "settings": "history_lag: true"},
        "allowed are DSSM, DSSMV2, DAT and MIND",
    ),
    "popularity of nodes": (
        {"model": "TDM", "settings": "popularity_half_life_days: 1"},
        "allowed is None",
    ),
    "unknown feature": ({"settings": "features: [item_id, histroy]"}, "did you mean 'history'"),
    "unknown setting": ({"settings": "layer: 3"}, "unknown field 'layer'; did you mean 'layers'?"),
    "old parameter": ({"later": True}, "write -p settings 'history_lag: ...'"),
    "parameter that is a setting now": ({"layers": 3}, "write -p settings 'layers: ...'"),
    "old name in settings": ({"settings": "half_life: 7"}, "is 'popularity_half_life_days' now"),
    "price that is a setting now": (
        {"variational_dropout": 0.1},
        "write -p settings 'variational_dropout: ...'",
    ),
    "unknown module": ({"module": "no_such_nets"}, "no_such_nets.py in"),
}


@pytest.mark.parametrize(("parameters", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_is_refused(parameters, said, tmp_path):
    result = run_papermill(MATCH, tmp_path / "out.ipynb", tmp_path, {**SHORT, **parameters})
    assert result.returncode != 0 and said in result.stderr, tail(result)
