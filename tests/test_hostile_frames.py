"""Frames that a careless or a hostile hand would bring: what tells the answer is found, what cannot be
read is said, and ids of any type give the same numbers.
"""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recbench.data import dataset_from_frames, infer_schema
from recbench.data.rows.features import RawFeature
from recbench.data.rows.table import encode_numbers, fit_scale

ROWS, USERS, ITEMS = 900, 60, 40


def events(**more) -> pd.DataFrame:
    "Who takes what is chance."
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(1, USERS + 1, ROWS),
            "item_id": rng.integers(1, ITEMS + 1, ROWS),
            "timestamp": 1_700_000_000 + np.arange(ROWS) * 50,
        }
    )
    return frame.assign(**more)


def read(frame: pd.DataFrame, **given) -> tuple[dict, str]:
    "Features by name, and the notes."
    schema = infer_schema(frame, **given)
    return {feature.name: feature for feature in schema.features}, "\n".join(schema.notes)


RNG = np.random.default_rng(1)
OWN = events().item_id
LABEL = (RNG.random(ROWS) < .4).astype(int)
NOISE = RNG.integers(1, ITEMS + 1, (ROWS, 4)).tolist()
LISTS = {
    "list": [[*row, own] for row, own in zip(NOISE, OWN)],
    "numpy": [np.array([*row, own]) for row, own in zip(NOISE, OWN)],
    "tuple": [(own, *row) for row, own in zip(NOISE, OWN)],
    "text": ["|".join(map(str, [*row, own])) for row, own in zip(NOISE, OWN)],
    "strings": [[*map(str, row), str(own)] for row, own in zip(NOISE, OWN)],
    "Arrow": pd.array(
        [[*row, own] for row, own in zip(NOISE, OWN)], dtype=pd.ArrowDtype(pa.list_(pa.int64()))
    ),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_that_hold_the_answer_are_not_read(kind):
    found, notes = read(events(past=LISTS[kind]))
    assert "past" not in found and "past (100% of its lists hold the row's own item)" in notes
    before = (
        LISTS[kind][1:2] + LISTS[kind][:-1]
        if isinstance(LISTS[kind], list)
        else LISTS[kind][[1, *range(ROWS - 1)]]
    )
    assert "past" in read(events(past=before))[0]


def test_lists_that_a_schema_declares_are_warned_of():
    from recbench.data.sets.schema_file import make_schema
    ids = [{"kind": "id", "name": "user_id"}, {"kind": "id", "name": "item_id", "side": "item"}]
    schema = make_schema(
        {
            "features": [*ids, {"kind": "sequence", "name": "past", "embedding_name": "item_id_emb"}],
            "timestamp": "timestamp",
        }
    )
    with pytest.warns(
        UserWarning, match="past tells the answer: 100% of its lists hold the row's own item"
    ):
        dataset_from_frames(events(past=LISTS["list"]), schema=schema, verbose=False)


@pytest.mark.parametrize(
    "column",
    [
        np.where(LABEL, RNG.random(ROWS), np.nan),
        np.where(LABEL, "done", None),
        [[one] for one in LABEL],
        pd.array(np.where(LABEL, 3, 0), dtype="Int64"),
        LABEL.astype(bool),
        np.where(LABEL, "ja", "nein"),
    ],
    ids=["missing without a click", "text where clicked", "lists", "nullable", "bool", "German"],
)
def test_columns_that_tell_the_label_are_not_read(column):
    found, notes = read(events(label=LABEL, later=column), rows="all")
    assert "later" not in found and "100% of the label can be read from it" in notes


@pytest.mark.parametrize(
    "name",
    [
        "Menge",
        "verweildauer",
        "durée",
        "quantité",
        "duración",
        "оценка",
        "购买数量",
        "dwell_ms",
        "isPurchased",
    ],
)
def test_outcomes_of_other_languages_are_named(name):
    assert f"{name} (an outcome" in read(events(**{name: RNG.integers(0, 9, ROWS)}))[1]


def test_histories_with_a_few_unknown_items_share_the_table_of_items():
    lists = [[*row, 999] if place == 3 else row for place, row in enumerate(NOISE)]
    found, notes = read(events(history=lists))
    assert (
        found["history"].table == "item_id_emb"
        and "history: 1 of 3,601 values are no item of the data, read as unknown" in notes
    )
    data = dataset_from_frames(events(history=lists), verbose=False)
    assert data.row_sequences == ("history",) and data.row_items("train").lengths[3] == 4
    assert (
        read(events(tags=[[500 + one for one in row] for row in NOISE]))[0]["tags"].table == "tags_emb"
    )


@pytest.mark.parametrize("mark", [",", ";", "/", " "])
def test_another_separator_is_offered(mark):
    text = [mark.join(map(str, row)) for row in NOISE]
    assert (
        f"seen: holds {mark!r}; give separator={mark!r} if these are lists"
        in read(events(seen=text))[1]
    )
    assert read(events(seen=text), separator=mark)[0]["seen"].table == "item_id_emb"
    assert (
        "separator" not in read(events(city=RNG.choice(["New York", "San Jose", "New Haven"], ROWS)))[1]
    )


def test_one_huge_number_does_not_make_the_others_nothing():
    amount = np.where(np.arange(ROWS) == 3, 1e300, RNG.random(ROWS))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        scale = read(events(amount=amount))[0]["amount"].scale
        data = dataset_from_frames(events(amount=amount), verbose=False)
    assert (
        scale == "log" and np.isfinite(data.train.dense.numpy()).all() and data.train.dense.std() > 0.9
    )
    fitted = fit_scale(RawFeature(name="x", scale="standard"), pd.DataFrame({"x": [1e300, 3e300]}))
    assert (
        fitted.mean == pytest.approx((2e300,))
        and fitted.spread == pytest.approx((1e300,))
        and encode_numbers(fitted, pd.Series([1e300])).item() == -1
    )


def test_refusals_say_what_to_do():
    for frame, words in (
        (None, "events is None"),
        (events().user_id, "is a Series"),
        (events(timestamp=events().timestamp.astype(str)), "pandas.to_datetime"),
        (events(timestamp=pd.to_timedelta(events().timestamp, unit="s")), "must be numbers or dates"),
    ):
        with pytest.raises(ValueError, match=words): dataset_from_frames(frame, verbose=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import torch

    from recbench.data import Split
    from recbench.models import create_model
    from recbench.models.match_configs import match_config
    from recbench.train import Run, Trainer
    torch.manual_seed(0)
    data, folder = (
        dataset_from_frames(events(), verbose=False, split=Split(kind="leave-last")),
        tmp_path_factory.mktemp("runs") / "run",
    )
    model = create_model(
        match_config("DSSM", data, hidden_units=[8], output_dim=8), data.features(), []
    )
    Trainer(model, data, epochs=1, batch_size=128, progress=False, run_dir=folder).fit()
    return Run.load(folder)


def asked(run, user=7, history=(3, 4), k=3, form=lambda frame: frame) -> list[float]:
    return run.recommend(
        form(pd.DataFrame({"user_id": [user], "history": [history]})), k=k
    ).score.tolist()


def test_rows_of_any_kind_are_answered_alike(run):
    expected = asked(run)
    for user in (7.0, np.int32(7), np.uint64(7)): assert asked(run, user) == expected
    for history in (
        [3, 4],
        np.array([3, 4], np.int16),
        np.array([3.0, 4.0]),
        range(3, 5),
        pd.Series([3, 4]),
    ):
        assert asked(run, history=history) == expected
    for form in (
        pa.Table.from_pandas,
        lambda frame: frame.to_dict("records"),
        lambda frame: frame.astype({"user_id": "category"}),
        lambda frame: frame.astype({"user_id": "Int64"}),
    ):
        assert asked(run, history=[3, 4], form=form) == expected
    assert asked(run, None) == asked(run, np.nan) == asked(run, -1) == asked(run, 12345) != expected
    assert asked(run, history=None) == asked(run, history=[]) == asked(run, history=np.nan)


@pytest.mark.parametrize(
    "history",
    [3, [[3]], [2**63], "3|4", ["3", "4"], [3, "4"], (item for item in (3, 4))],
    ids=lambda history: str(history).split(" at ")[0],
)
def test_histories_that_are_no_lists_of_items_are_refused(run, history):
    with pytest.raises(ValueError, match="history (holds|must hold)"): asked(run, history=history)


@pytest.mark.parametrize("user", ["7", b"7", True, pd.Timestamp(7)], ids=str)
def test_users_of_another_kind_are_refused(run, user):
    with pytest.raises(ValueError, match="user_id holds .* must be of one kind"): asked(run, user)


@pytest.mark.parametrize("k", [0, 41, 2.5, "3", True, None])
def test_lengths_that_are_none_are_refused(run, k):
    with pytest.raises(ValueError, match="k is .* must be a whole number in 1..40"): asked(run, k=k)


@pytest.mark.parametrize("timed", [True, False], ids=["times", "no time"])
def test_a_random_split_does_not_depend_on_names_or_the_order_of_the_file(timed):
    from recbench.data import Split
    frame = events().drop_duplicates(["user_id", "item_id"], ignore_index=True)
    if not timed: frame = frame.drop(columns="timestamp")
    names, place = RNG.permutation(ITEMS + 1), RNG.permutation(len(frame))
    renamed = frame.assign(
        item_id="i" + pd.Series(names[frame.item_id]).astype(str), user_id=-frame.user_id
    ).iloc[place]
    parts, others = (
        Split(kind="random", seed=2)(one, timestamp="timestamp" if timed else None)
        for one in (frame, renamed)
    )
    for one, other in zip(parts, others): assert sorted(one.index) == sorted(other.index)
