"A given train and test without validation and times: accounted for, trained on, evaluated by user."

import numpy as np
import pandas as pd
import pytest

from recbench.data import dataset_from_frames, load_dataset
from recbench.evaluate import Popularity, evaluate
from recbench.models import usual_model
from recbench.train import Trainer


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    rows = lambda size: pd.DataFrame(
        {"user_id": rng.integers(0, 50, size), "item_id": rng.integers(0, 40, size)}
    ).drop_duplicates()
    return {"train": rows(600), "test": rows(100)}


def test_train_and_test_are_enough(parts):
    data = dataset_from_frames(parts, verbose=False)
    assert (len(data.valid), data.account["valid"], data.timed) == (0, 0, False)
    assert data.account["read"] == len(data.train) + len(data.test) + data.account["repeats"]
    assert "given split" in data.protocol and "no time" in data.protocol


def test_a_model_trains_and_several_targets_of_a_user_count_once(parts):
    data = dataset_from_frames(parts, verbose=False)
    trainer = Trainer(usual_model("DSSM", data), data, epochs=2, progress=False)
    trainer.fit()
    assert trainer.monitor == "epoch"
    found = evaluate(trainer.model, data, (20,))
    assert len(found.values) == data.test.columns["user_index"].unique().numel()
    assert evaluate(Popularity().fit(data.interactions("train")), data, (20,)).values.shape[0]


@pytest.mark.parametrize("missing", ["train", "test"])
def test_train_and_test_are_both_needed(parts, missing):
    given = {name: frame for name, frame in parts.items() if name != missing}
    with pytest.raises(ValueError, match="train and test"):
        dataset_from_frames(given, verbose=False)


NAMES = [
    "gowalla", "yelp2018", "amazon-sports", "amazon-toys", "movielens-20m", "retailrocket", "taobao",
    "criteo", "avazu",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_its_place(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{name} was not found. Put .* into {tmp_path.name}"):
        load_dataset(name, folder=tmp_path)
