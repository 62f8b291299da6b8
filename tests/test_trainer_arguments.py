"""Some 170 values that a trainer's arguments cannot have: each is refused in one sentence with the
argument's name, before anything is made.
"""

import re

import numpy as np
import pytest
import torch

from recbench.core.config import (
    DSSMConfig,
    FeatureGroup,
    Loss,
    MLPConfig,
    ModelConfig,
    SoftmaxCrossEntropyConfig,
    Tower,
)
from recbench.data import MatchLoader, Negatives
from recbench.data.published.planted import planted
from recbench.models.dssm import DSSM
from recbench.train.trainer import Trainer

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = ["3", "", True, False, [1], {}, NAN, INF, -INF, object(), 1j]
WHOLE = [*NO_NUMBERS, 0, -1, 1.5, 2.0, np.float64(3), np.bool_(True), -10**30]


class NoEvents:
    def on_steps(self, trainer, step, loss): pass


BAD = {
    **{
        name: WHOLE
        for name in ("batch_size", "epochs", "steps", "patience", "accumulate", "save_every_steps")
    },
    "seed": [*NO_NUMBERS, -1, 1.5, 2**64, None],
    "learning_rate": [*NO_NUMBERS, 0, -1e-3, 10**400],
    "table_learning_rate": [*NO_NUMBERS, 0, -0.1],
    "save_every_minutes": [*NO_NUMBERS, 0, -1],
    "valid_rows": [0, -1, 1.5, "10", "ALL", True, [10], NAN],
    "weight_decay": [*NO_NUMBERS, -1, -1e-9],
    "table_weight_decay": [*NO_NUMBERS, -1],
    "table_optimizer": ["adamw", "ADAM", "", 1, True],
    "mixed_precision": ["bf16", "FP32", "", 16, True, torch.float16],
    "device": ["gpu", "", 0, None, "meta", "cuda:99", ["cpu"]],
    "resume": ["False", "", 0, 1, None, np.bool_(False)],
    "progress": ["no", 0, None],
    "top_k": [10, "10", None, (0,), (10, -1), (1.5,), ("10",), (True,), (NAN,), ()],
    "callbacks": [NoEvents(), [NoEvents()], [NoEvents], [None], ["x"], "x", None, 3],
    "parts": ["x", ["x"], None, [{"pattern": ".*"}]],
    "clipping": ["norm", None, 1.0, {"clipping_type": "norm"}],
    "monitor": ["ndgc@10", "", 10, ["ndcg@10"]],
    "negatives": ["full", 10, {"kind": "full"}],
    "recipe": ["DSSM", {}, 1],
    "dense": ["adam", {"adam_optimizer": {}}, torch.optim.Adam],
    "grad_scaler": [True, 1024.0, {}],
    "loader": [[], "x", 3, torch.utils.data.DataLoader([1])],
    "run_dir": [3, ["x"], True],
}
CASES = [
    (name, value)
    for name, values in BAD.items()
    for value in values
    if not (value is None and name in ("batch_size", "epochs", "steps", "patience"))
]


@pytest.fixture(scope="module")
def parts():
    data = planted(users=60, items=100, seed=0)
    towers = {
        f"{side}_tower": Tower(input=side, mlp=MLPConfig(hidden_units=[8])) for side in ("user", "item")
    }
    groups = [
        FeatureGroup(group_name=side, feature_names=[one.name for one in data.features(side)])
        for side in ("user", "item")
    ]
    config = ModelConfig(
        feature_groups=groups,
        dssm=DSSMConfig(**towers, output_dim=8),
        losses=[Loss(softmax_cross_entropy=SoftmaxCrossEntropyConfig())],
    )
    return DSSM(config, data.features(), []), data


@pytest.mark.parametrize(
    "name, value",
    CASES,
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_refused_by_name(parts, name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {key: weight.clone() for key, weight in parts[0].state_dict().items()}
    with pytest.raises(ValueError) as refused: Trainer(*parts, **{name: value})
    said = str(refused.value)
    assert re.match(rf"(unknown )?{name}\b", said) and len(said) < 400 and not list(tmp_path.iterdir())
    assert not any(tables.is_fused for tables in parts[0].modules() if hasattr(tables, "is_fused"))
    assert all(torch.equal(weight, before[key]) for key, weight in parts[0].state_dict().items())


def test_there_are_enough_of_them(): assert len(CASES) > 170


@pytest.mark.parametrize("dataset", ["planted", None, 3])
def test_a_data_set_is_needed(parts, dataset):
    with pytest.raises(ValueError, match=r"^dataset is .*must be a Dataset"): Trainer(parts[0], dataset)


def test_numbers_of_numpy_are_taken(parts):
    trainer = Trainer(
        *parts,
        batch_size=np.int64(16),
        learning_rate=np.float32(0.5),
        epochs=np.int8(2),
        progress=False,
    )
    assert {name: trainer.settings[name] for name in ("batch_size", "learning_rate", "epochs")} == {
        "batch_size": 16,
        "learning_rate": 0.5,
        "epochs": 2,
    }
    assert [type(trainer.settings[name]) for name in ("batch_size", "learning_rate", "epochs")] == [
        int,
        float,
        int,
    ]


@pytest.mark.parametrize(
    "name, value", [("resume", False), ("save_every_steps", 5), ("save_every_minutes", 3)]
)
def test_what_is_said_of_saving_needs_a_folder(parts, name, value, tmp_path):
    with pytest.raises(ValueError, match=rf"^{name} is {value} and run_dir None; nothing is saved"):
        Trainer(*parts, **{name: value})
    assert Trainer(*parts, run_dir=tmp_path / "run", **{name: value}).recorder


def test_a_loader_brings_its_own_batches(parts):
    loader = MatchLoader(parts[1], 64, Negatives(kind="full"))
    with pytest.raises(ValueError, match="^batch_size is 512 beside a loader"):
        Trainer(*parts, loader=loader, batch_size=512)
    assert [
        Trainer(*parts, **given).settings["batch_size"]
        for given in ({"loader": loader}, {}, {"batch_size": 8})
    ] == [64, 512, 8]


def test_a_misspelt_argument_is_told_its_neighbour(parts):
    with pytest.raises(TypeError, match=r"^Trainer has no argument 'epoch'; did you mean 'epochs'\?"):
        Trainer(*parts, epoch=3)
