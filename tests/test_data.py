"MovieLens-100K is split as the protocol says, row for row."
import pandas as pd
import pytest
import torch
from conftest import SHARED

PROTOCOLS = SHARED / "data" / "movielens-100k" / "protocols"
pytestmark = pytest.mark.skipif(
    not PROTOCOLS.is_dir(),
    reason="no protocol files: ../shared/data/movielens-100k/protocols is not there",
)


@pytest.fixture(scope="module")
def dataset():
    from recbench.data import load_dataset
    return load_dataset("movielens-100k", ties="item_id")  # protocol P1, in the peers' order of ties


def pairs(dataset, split: str) -> set[tuple[int, int]]:
    "(user, item) of every row by the ids of the raw file."
    columns = getattr(dataset, split).columns
    users = dataset.user_frame["user_id"].to_numpy()[columns["user_index"].numpy()]
    items = dataset.item_frame["item_id"].to_numpy()[columns["item_index"].numpy()]
    return set(zip(users.astype(int).tolist(), items.astype(int).tolist()))


@pytest.mark.parametrize(("split", "rows"), [("train", 53_491), ("valid", 942), ("test", 942)])
def test_rows(dataset, split, rows):
    expected = pd.read_csv(PROTOCOLS / f"p1_{split}.csv")
    found = pairs(dataset, split)
    assert len(getattr(dataset, split).columns["user_index"]) == len(expected) == rows
    assert found == set(zip(expected["user_id"], expected["item_id"]))


def test_the_order_of_ties_stands_in_the_name(dataset):
    from recbench.data import load_dataset
    assert dataset.protocol == "leave-last, ties by item id"
    neutral = [load_dataset("movielens-100k", tie_seed=seed) for seed in range(2)]
    assert [data.protocol for data in neutral] == ["leave-last", "leave-last, tie seed 1"]
    assert (
        0.2 < len(pairs(neutral[0], "test") & pairs(neutral[1], "test")) / 942 < 0.9
    )  # untied rows stay
    assert .2 < len(pairs(neutral[0], "test") & pairs(dataset, "test")) / 942 < .9


def test_catalogue_holds_every_item(dataset):
    assert len(dataset.item_frame) == 1682


# Protocol P2: every rating is a row, three splits

@pytest.mark.parametrize("split", ["random", "temporal_user", "temporal"])
def test_ranking_splits_row_for_row(split):
    from recbench.data.published.fetch import fetch_movielens_100k
    from recbench.data.published.movielens import read_movielens
    from recbench.data.published.movielens_rank import SPLITS
    parts = SPLITS[split](read_movielens(fetch_movielens_100k()).ratings)
    for number, name in enumerate(("train", "valid", "test")):
        assert set((parts == number).nonzero()[0]) == set(
            pd.read_csv(PROTOCOLS / f"p2_{split}_{name}.csv")["row_id"]
        )


def test_ranking_rows_hold_the_features_of_the_table():
    from recbench.data import load_dataset
    table, data = pd.read_parquet(PROTOCOLS / "p2_table.parquet"), load_dataset(
        "movielens-100k", task="rank", split="temporal_user"
    )
    rows = table[table["split_temporal_user"] == "test"].reset_index(drop=True)
    columns = data.test.columns
    assert (data.user_frame["user_id"].to_numpy()[columns["user_index"]] == rows["user_id"]).all()
    assert (data.item_frame["item_id"].to_numpy()[columns["item_index"]] == rows["item_id"]).all()
    assert (columns["label"].numpy() == rows["label"]).all()
    batch = next(data.pair_batches("test", len(rows)))[1].sparse_features["__BASE__"].to_dict()
    for name in ("age", "gender", "occupation", "zip3"):
        assert data.vocabularies[f"{name}_emb"].decode(batch[name].values().numpy()) == [
            value if name != "age" else int(value) for value in rows[name]
        ]


def test_a_rating_knows_only_earlier_tenths():
    from recbench.data import load_dataset
    from recbench.data.published.movielens import fetch_movielens_100k, read_movielens
    from recbench.data.rows.order import tie_keys
    data, ratings = (
        load_dataset("movielens-100k", task="rank", split="temporal_user"),
        read_movielens(fetch_movielens_100k()).ratings,
    )
    users, items = data.user_frame["user_id"].to_numpy(), data.item_frame["item_id"].to_numpy()
    ordered = ratings.sort_values(["user_id", "timestamp"], kind="stable")
    size, place = (
        ordered.groupby("user_id")["item_id"].transform("size"),
        ordered.groupby("user_id").cumcount(),
    )
    tenth = sum((place >= size * cut // 10).astype(int) for cut in range(1, 10))
    known = pd.DataFrame(
        {
            "user": ordered["user_id"],
            "item": ordered["item_id"],
            "tie": tie_keys(ordered["user_id"], ordered["item_id"]),
            "time": ordered["timestamp"],
            "stars": ordered["rating"].astype(int),
            "tenth": tenth,
        }
    )
    for name in ("train", "valid", "test"):
        columns, history, stars = (
            data.split(name).columns,
            data.split(name).jagged["history"],
            data.split(name).jagged["history_label"],
        )
        for row in range(0, len(data.split(name)), 997):
            mine = known[known["user"] == users[columns["user_index"][row]]]
            own = mine[mine["item"] == items[columns["item_index"][row]]].iloc[0]
            newest = (
                mine[(mine["tenth"] < own["tenth"]) & (mine["time"] < own["time"])]
                .sort_values(["time", "tenth", "tie"])
                .tail(50)
            )
            assert stars.take(torch.tensor([row])).values.tolist() == newest[
                "stars"
            ].tolist() and history.lengths[row] == len(newest)


def test_fields_are_explained():
    """Each field of a feature and of a schema stands in `help` with its meaning, and the repr leaves
    defaults out.
    """
    from recbench.data import IdFeature, RawFeature, Schema, SchemaFile, SequenceFeature
    for noun in (IdFeature, RawFeature, SequenceFeature, Schema, SchemaFile):
        told = dict(
            line.strip().split(": ", 1) for line in noun.__doc__.split("Attributes:\n")[1].splitlines()
        )
        assert list(told) == list(noun.model_fields) and all(told.values()), noun
    assert "width D of its table" in IdFeature.__doc__
    assert (
        repr(Schema(features=(IdFeature(name="a"),), label="b"))
        == "Schema(features=(IdFeature(name='a'),), label='b')"
    )
