"A given train and test without validation and times: accounted for, trained on, evaluated by user."

import numpy as np
import pandas as pd
import pytest
import torch

from recbench.data import SchemaFile, dataset_from_frames, load_dataset
from recbench.data.rows.features import IdFeature
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


def test_a_folder_of_splits_is_read(parts, tmp_path):
    for name, frame in parts.items(): frame.to_parquet(tmp_path / f"{name}.parquet")
    whole = dataset_from_frames(parts, verbose=False)
    features = "[{kind: id, name: user_id, side: user}, {kind: id, name: item_id, side: item}]"
    (tmp_path / "schema.yaml").write_text(
        "files: {train: train.parquet, test: test.parquet}\nuser_key: user_id\nitem_key: item_id\n"
        "timestamp: null\n"
        f"features: {features}\n"
    )
    read = load_dataset(str(tmp_path), verbose=False)
    assert read.account == whole.account and len(read.items) == len(whole.items)
    assert torch.equal(read.test.columns["item_index"], whole.test.columns["item_index"])


def test_times_of_all_splits_count_in_one_unit(parts):
    days = pd.Timestamp("2025-01-01") + pd.to_timedelta(np.arange(700), unit="h")
    timed = lambda unit: {
        name: frame.assign(timestamp=days[: len(frame)].as_unit(unit[name]))
        for name, frame in parts.items()
    }
    same, mixed = ({"train": "ns", "test": "ns"}, {"train": "us", "test": "ns"})
    one, other = (dataset_from_frames(timed(unit), verbose=False) for unit in (same, mixed))
    for split in ("train", "test"):
        assert torch.equal(*(data.split(split).columns["timestamp"] for data in (one, other)))
    zoned = timed(same)
    zoned["test"] = zoned["test"].assign(timestamp=zoned["test"]["timestamp"].dt.tz_localize("UTC"))
    with pytest.raises(ValueError, match="column 'timestamp' holds dates in train, dates with a zone"):
        dataset_from_frames(zoned, verbose=False, schema=one_schema())


def one_schema():
    return SchemaFile(
        user_key="user_id", item_key="item_id", timestamp="timestamp",
        features=[IdFeature(name="user_id"), IdFeature(name="item_id", side="item")],
    )
