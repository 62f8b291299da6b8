"Weights and averages saved under the names that parts of networks had before load into today's models."

import copy

import pytest
import torch

from recbench.data.published.planted import planted_clicks
from recbench.models import recipe_of, usual_model
from recbench.train import ExponentialAverage, Trainer
from recbench.train.runs import check_same, read_config

BEFORE = {
    "DCNV1": {"deep_mlp": "deep", "final_mlp": "final_dnn"},
    "DCNV2": {"deep_mlp": "deep"},
    "xDeepFM": {"deep_mlp": "deep", "final_mlp": "final_dnn"},
    "DeepFM": {"output_linear": "output_mlp"},
    "MultiTower": {"output_linear": "output_mlp"},
    "WuKong": {"output_linear": "output_mlp"},
}


@pytest.fixture(scope="module")
def clicks():
    return planted_clicks(users=60, items=100)


def renamed(state, names):
    return {
        ".".join([names.get(key.split(".")[0], key.split(".")[0]), *key.split(".")[1:]]): value
        for key, value in state.items()
    }


@pytest.mark.parametrize("name", BEFORE)
def test_weights_saved_under_earlier_names_load(name, clicks):
    saved, model = usual_model(name, clicks, seed=1), usual_model(name, clicks)
    state = renamed(saved.state_dict(), BEFORE[name])
    assert len(state.keys() - model.state_dict().keys()) >= 2
    model.load_state_dict(state)
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in model.state_dict().items())


def test_averages_saved_under_earlier_names_go_on(clicks):
    def trainer():
        return Trainer(
            usual_model("DeepFM", clicks),
            clicks,
            steps=6,
            learning_rate=1e-2,
            callbacks=[ExponentialAverage(0.5)],
            progress=False,
        )

    whole, first, second = trainer(), trainer(), trainer()
    whole.fit()
    first.steps = 6
    first.fit()
    state = first.state_dict()
    own = state["callbacks"]["0 ExponentialAverage"]
    old = {
        key.replace("average.output_linear", "average.output_mlp"): value for key, value in own.items()
    }
    assert old.keys() != own.keys()
    second.load_state_dict(
        {
            **state,
            "model": renamed(state["model"], BEFORE["DeepFM"]),
            "callbacks": {"0 ExponentialAverage": old},
        }
    )
    second.callbacks[0].on_start(second)
    assert second.callbacks[0].averages.keys() == first.callbacks[0].averages.keys()
    assert all(
        torch.equal(value, first.callbacks[0].averages[key])
        for key, value in second.callbacks[0].averages.items()
    )


def test_runs_of_configs_that_had_no_members_go_on(clicks, tmp_path):
    recipe = recipe_of("DCNV2", clicks)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, members in zip(folders, (1, 2)):
        model = usual_model("DCNV2", clicks, recipe, members=members)
        Trainer(model, clicks, steps=2, run_dir=folder, progress=False).fit()
    old, several = (read_config(folder) for folder in folders)
    now = copy.deepcopy(old)
    assert old["model"]["config"].pop("members") == 1
    check_same(old, now)
    with pytest.raises(ValueError, match="model.config.members was 1 and is 2"):
        check_same(old, several)
