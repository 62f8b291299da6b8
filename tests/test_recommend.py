"""What a run recommends for raw rows, from its folder alone, is what evaluation ranked first, with
every matching model.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from recbench.data import Split, dataset_from_frames
from recbench.data.feed.tree import category_tree
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.planted import planted
from recbench.data.rows.features import RawFeature, with_embedding_dim
from recbench.evaluate import TreeIndex, recommend
from recbench.export.wrappers import input_specs
from recbench.models import create_model
from recbench.models.match_configs import MATCH_CONFIGS, match_config
from recbench.train import Trainer
from recbench.train.known_users import item_choice
from recbench.train.runs import Run


@pytest.fixture(scope="module")
def world():
    return planted(users=80, items=100)


def raw_users(data):
    "Test users as they would come from a log: profile, and the ids of earlier items, oldest first."
    parts = [data.train.columns, data.valid.columns]
    users, items, times = (
        np.concatenate([part[name].numpy() for part in parts])
        for name in ("user_index", "item_index", "timestamp")
    )
    order, keys = np.argsort(times, kind="stable"), data.item_frame["item_id"].to_numpy()
    wanted = data.test.columns["user_index"].unique().numpy()
    histories = [keys[items[order][users[order] == user]].tolist() for user in wanted]
    return data.user_frame.iloc[wanted].assign(history=histories).reset_index(drop=True)


@pytest.mark.parametrize("name", MATCH_CONFIGS)
def test_a_run_recommends_what_was_ranked_first(name, world, tmp_path):
    features = with_embedding_dim(world.features(), 8)
    tree = category_tree(world.items.singles[:, -1], 3) if name == "TDM" else None
    parts = {"tree": tree} if tree else {}
    torch.manual_seed(0)
    model = create_model(
        match_config(name, world, features, hidden_units=[8], output_dim=8),
        tree_features(features, "item_id", tree) if tree else features,
        ["label"],
        **parts,
    )
    Trainer(model, world, batch_size=64, epochs=1, run_dir=tmp_path, progress=False).fit()
    run, rows = Run.load(tmp_path), raw_users(world)
    found = run.recommend(rows, k=7, beam=8)
    lists = recommend(TreeIndex(model, world, 8) if tree else model, world, 7).items
    keys = world.item_frame["item_id"].to_numpy()
    for row, items in enumerate(lists.tolist()):
        assert found.loc[found["row"] == row, "item_id"].tolist() == [
            keys[item] for item in items if item >= 0
        ]
    people = world.user_frame["user_id"].to_numpy()[world.test.columns["user_index"].unique().numpy()]
    by_id = run.recommend(people, k=7, beam=8)     # the same lists, of whom the run knows
    assert by_id["item_id"].tolist() == found["item_id"].tolist()
    assert by_id["user_id"].tolist() == people[found["row"]].tolist()
    bounds = {"eligible": keys[:9], "forbidden": {people[0]: keys[:3]}}
    shelf = run.recommend(people[:5], k=7, seen="keep", **bounds)
    whole = run.recommend(people[:5], k=len(keys), beam=len(keys), seen="keep")
    may = whole["item_id"].isin(keys[:9]) & ~(
        (whole["user_id"] == people[0]) & whole["item_id"].isin(keys[:3])
    )
    expected = whole[may].groupby("user_id", sort=False).head(7)
    assert shelf["item_id"].tolist() == expected["item_id"].tolist()
    np.testing.assert_allclose(shelf["score"], expected["score"], rtol=1e-5, atol=1e-6)
    again = run.recommend(rows, k=7, keep_seen=True, beam=100)
    had = {row: set(items) for row, items in enumerate(rows["history"])}
    assert len(again) == 7 * len(rows) and not any(
        item in had[row] for row, item in zip(found["row"], found["item_id"])
    )
    assert any(item in had[row] for row, item in zip(again["row"], again["item_id"]))
    cold = run.recommend(
        rows.head(1).assign(history=[[]]), k=7, beam=100
    )  # nobody in the batch has a past
    assert (
        cold["rank"].tolist() == list(range(1, 8))
        and cold["score"].notna().all()
        and cold["score"].is_monotonic_decreasing
    )
    assert (
        run.recommend(rows.head(0)).columns.tolist() == found.columns.tolist()
        and run.recommend(rows.head(0)).empty
    )


def frames(repeated: int = 0):
    """Events at moments of their own, the last ones again for so many users, and users with a number
    between 1 and 1e6.
    """
    rng = np.random.default_rng(3)
    events = pd.DataFrame(
        {"user_id": rng.integers(0, 50, 1500), "item_id": rng.integers(0, 60, 1500)}
    ).drop_duplicates(ignore_index=True)
    events = pd.concat([events, events.drop_duplicates("user_id").head(repeated)], ignore_index=True)
    return events.assign(timestamp=np.arange(len(events))), pd.DataFrame(
        {"user_id": np.arange(50), "income": np.exp(rng.uniform(0, 14, 50))}
    )


def trained(data, folder):
    "A small DSSM of the data set, and its run read from the folder."
    torch.manual_seed(0)
    model = create_model(
        match_config(
            "DSSM", data, with_embedding_dim(data.features(), 8), hidden_units=[8], output_dim=8
        ),
        with_embedding_dim(data.features(), 8),
        ["label"],
    )
    Trainer(model, data, batch_size=64, epochs=1, run_dir=folder, progress=False).fit()
    return model, Run.load(folder)


def lists_of(found):
    "The items of each row, in order of rank."
    return found.groupby("row")["item_id"].agg(list).tolist()


def evaluated(model, data, k):
    "The lists of evaluation as item keys."
    keys = data.item_frame["item_id"].to_numpy()
    return [
        [keys[item] for item in items if item >= 0]
        for items in recommend(model, data, k).items.tolist()
    ]


@pytest.mark.parametrize("offers", [True, False], ids=["nothing masked", "seen masked"])
def test_lists_mask_what_evaluation_masks(offers, tmp_path):
    given = {"repeats": "keep"} if offers else {}
    data = dataset_from_frames(
        *frames(repeated=50 if offers else 0), split=Split(kind="leave-last"), verbose=False, **given
    )
    assert data.offers_seen is offers and data.masks == ("nothing masked" if offers else "seen masked")
    model, run = trained(data, tmp_path)
    rows = raw_users(data)
    assert lists_of(run.recommend(rows, k=10)) == evaluated(model, data, 10)
    had = [
        set(items) & set(past)
        for items, past in zip(lists_of(run.recommend(rows, k=10)), rows["history"])
    ]
    assert any(had) is offers
    masked = lists_of(run.recommend(rows, k=10, keep_seen=False))
    assert not any(
        set(items) & set(past) for items, past in zip(masked, rows["history"])
    )  # who asks for it gets it


def test_a_number_in_raw_rows_is_scaled_as_in_training(tmp_path):
    events, users = frames()
    data = dataset_from_frames(events, users, split=Split(kind="leave-last"), verbose=False)
    income = next(feature for feature in data.features() if feature.name == "income")
    assert (
        isinstance(income, RawFeature)
        and income.scale == "log"
        and income.mean == pytest.approx([np.log1p(users["income"]).mean()])
    )
    model, run = trained(data, tmp_path)
    rows = raw_users(data)
    assert rows["income"].max() > 1e5  # raw, not what the model reads
    assert lists_of(run.recommend(rows, k=10)) == evaluated(model, data, 10)
    assert lists_of(
        run.recommend(rows.assign(income=rows["income"].iloc[::-1].to_numpy()), k=10)
    ) != evaluated(
        model, data, 10
    )  # and it is read


def test_a_user_asked_twice_has_one_choice():
    labels, keys = pd.Index([7, 7, 8], name="user_id"), pd.Index(["a", "b"])
    found = item_choice("forbidden", {7: ["b"]}, labels, keys)
    assert found.lengths.tolist() == [1, 1, 0] and found.values.tolist() == [1, 1]


def test_a_model_of_times_is_asked_at_a_time(tmp_path):
    "Lists of a model that reads pauses: by the run's own times, by raw events, and refused without."
    rng = np.random.default_rng(0)
    events = pd.DataFrame({
        "user_id": np.repeat(np.arange(40), 9), "item_id": rng.integers(0, 30, 360),
        "timestamp": rng.integers(0, 500, 360).cumsum() + 10**9,
    }).drop_duplicates(["user_id", "item_id"])
    data = dataset_from_frames(events, split=Split(kind="leave-last"), time_windows=True)
    features = with_embedding_dim(data.features(), 8)
    torch.manual_seed(0)
    model = create_model(match_config("HSTUMatch", data, features), features, ["label"])
    assert model.user_tower.request_time == "request_time"
    Trainer(model, data, batch_size=64, epochs=1, run_dir=tmp_path, progress=False).fit()
    run, users = Run.load(tmp_path), data.user_frame["user_id"].to_numpy()
    people = users[data.test.columns["user_index"].numpy()]
    rows = run.known_users.rows(people, run.item_keys, "user_id").assign(
        request_time=data.test.jagged["request_time"].packed().values.numpy()
    )
    lists = recommend(model, data, 5)
    keys = data.item_frame["item_id"].to_numpy()
    found = run.recommend(rows, k=5)
    assert found["item_id"].tolist() == keys[lists.items[lists.items >= 0]].tolist()
    at_once = run.recommend(people, k=5, seen="keep")    # asked in the second of the last event
    same = rows.assign(request_time=[one[-1] for one in rows["history_time"]])
    assert at_once["score"].tolist() == run.recommend(same, k=5, seen="keep")["score"].tolist()
    later = run.recommend(rows.assign(request_time=2 * 10**9), k=5, seen="keep")
    assert (at_once["score"] - later["score"]).abs().max() > 1e-4
    new = events[events["user_id"] == 3].assign(user_id=77)
    known = run.recommend(events=new, k=5)
    assert len(known) == 5 and known["user_id"].tolist() == [77] * 5
    asked = new.assign(user_id=3, request_time=3 * 10**9)
    known = run.recommend(events=asked, k=5)["score"].tolist()
    assert known != run.recommend(events=asked.drop(columns="request_time"), k=5)["score"].tolist()
    for wrong in (pd.Timestamp("2020-01-01"), "now"):
        with pytest.raises(ValueError, match="request_time holds .* must be numbers"):
            run.recommend(rows.assign(request_time=wrong), k=5)
    with pytest.raises(ValueError, match="no column 'timestamp'"):
        run.recommend(events=new.drop(columns="timestamp"), k=5)
    with pytest.raises(ValueError, match=r"history_time of row .* in step"):
        run.recommend(rows.assign(history_time=[[1]] * len(rows)), k=5)
    with pytest.raises(ValueError, match="reads the times .*'request_time'.* no features"):
        input_specs(run.model, "user")
    assert [spec.name for spec in input_specs(run.model, "item")] == ["item_id"]


def test_a_model_without_times_needs_none(tmp_path):
    "DSSM on data with time windows takes events without a time, of users it knows and others."
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"user_id": np.repeat(np.arange(30), 6), "item_id": rng.integers(0, 20, 180),
                           "timestamp": np.arange(180)}).drop_duplicates(["user_id", "item_id"])
    data = dataset_from_frames(events, split=Split(kind="leave-last"), time_windows=True, verbose=False)
    features = with_embedding_dim(data.features(), 8)
    model = create_model(match_config("DSSM", data, features, hidden_units=[8]), features, ["label"])
    Trainer(model, data, batch_size=64, epochs=1, run_dir=tmp_path, progress=False).fit()
    new = pd.DataFrame({"user_id": [3, 99], "item_id": [1, 2]})
    assert len(Run.load(tmp_path).recommend(events=new, k=4)) == 8


def test_dates_are_read_in_the_unit_of_the_training_rows(tmp_path):
    "Lists by dates, text and Arrow's times are those by numbers; `request_time` says when it is asked."
    rng = np.random.default_rng(0)
    seconds = pd.Series(rng.integers(0, 500, 180).cumsum() + 1_700_000_000)
    events = pd.DataFrame({
        "user_id": np.repeat(np.arange(30), 6), "item_id": rng.integers(0, 20, 180),
        "timestamp": pd.to_datetime(seconds, unit="s").dt.as_unit("ms"),
    }).drop_duplicates(["user_id", "item_id"])
    data = dataset_from_frames(events, split=Split(kind="leave-last"), time_windows=True, verbose=False)
    assert data.clock == "datetime64[ms]"
    features = with_embedding_dim(data.features(), 8)
    model = create_model(match_config("HSTUMatch", data, features), features, ["label"])
    Trainer(model, data, batch_size=64, epochs=1, run_dir=tmp_path, progress=False).fit()
    run = Run.load(tmp_path)
    new = events[events["user_id"] == 3].assign(user_id=77)
    score = lambda given, **more: run.recommend(events=given, k=5, **more)["score"].tolist()
    when, found = new["timestamp"], score(new)
    same = (when.astype("int64"), when.astype("datetime64[ns]"), when.astype(str),
            when.dt.to_pydatetime(), pd.Series(when, dtype="timestamp[us][pyarrow]"))
    for times in same: assert score(new.assign(timestamp=times)) == found
    assert score(pa.Table.from_pandas(new, preserve_index=False)) == found
    assert score(new.assign(timestamp=when.astype("int64") // 1000)) != found      # another unit
    late = when.max() + pd.Timedelta(days=40)
    told = score(new.assign(request_time=late))
    assert told != found and told == score(new, request_time=late) == score(new, request_time=str(late))
    ids = [3, 4]
    by_user = {user: run.known_users.rows([user], run.item_keys, "user_id")["history_time"].iloc[0][-1]
               for user in ids}
    lists = lambda **more: run.recommend(ids, k=5, **more)["score"].tolist()
    assert lists() == lists(request_time=by_user) != lists(request_time=late)
    run.write_recommendations(tmp_path / "a.parquet", ids, 5, block=1, request_time=pd.Series(by_user))
    assert pd.read_parquet(tmp_path / "a.parquet")["score"].tolist() == pytest.approx(lists(), abs=1e-5)
    for wrong, words in (
        (late.tz_localize("UTC"), "no zone"), ({3: late}, "no value for 4; .*1 lack"),
        ([late, late], "mapping"),
        (seconds[0], "before the last event"), ("soon", "request_time"),
    ):
        with pytest.raises(ValueError, match=words): lists(request_time=wrong)
    with pytest.raises(ValueError, match="a column of the rows too"):
        score(new.assign(request_time=late), request_time=late)
