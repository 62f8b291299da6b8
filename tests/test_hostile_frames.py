"Frames that a careless or a hostile hand would bring: what tells the answer is found, what cannot be read is said, and ids of any type give the same numbers."
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recbench.data import dataset_from_frames, infer_schema
from recbench.data.features import RawFeature
from recbench.data.table import encode_numbers, fit_scale

ROWS, USERS, ITEMS = 900, 60, 40


def events(**more) -> pd.DataFrame:
    "Who takes what is chance."
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user_id": rng.integers(1, USERS + 1, ROWS), "item_id": rng.integers(1, ITEMS + 1, ROWS), "timestamp": 1_700_000_000 + np.arange(ROWS) * 50})
    return frame.assign(**more)


def read(frame: pd.DataFrame, **given) -> tuple[dict, str]:
    "Features by name, and the notes."
    schema = infer_schema(frame, **given)
    return {feature.name: feature for feature in schema.features}, "\n".join(schema.notes)


RNG = np.random.default_rng(1)
OWN = events().item_id
LABEL = (RNG.random(ROWS) < .4).astype(int)
NOISE = RNG.integers(1, ITEMS + 1, (ROWS, 4)).tolist()
LISTS = {"list": [[*row, own] for row, own in zip(NOISE, OWN)], "numpy": [np.array([*row, own]) for row, own in zip(NOISE, OWN)], "tuple": [(own, *row) for row, own in zip(NOISE, OWN)],
         "text": ["|".join(map(str, [*row, own])) for row, own in zip(NOISE, OWN)], "strings": [[*map(str, row), str(own)] for row, own in zip(NOISE, OWN)], "Arrow": pd.array([[*row, own] for row, own in zip(NOISE, OWN)], dtype=pd.ArrowDtype(pa.list_(pa.int64())))}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_that_hold_the_answer_are_not_read(kind):
    found, notes = read(events(past=LISTS[kind]))
    assert "past" not in found and "past (100% of its lists hold the row's own item)" in notes
    before = LISTS[kind][1:2] + LISTS[kind][:-1] if isinstance(LISTS[kind], list) else LISTS[kind][[1, *range(ROWS - 1)]]
    assert "past" in read(events(past=before))[0]


def test_lists_that_a_schema_declares_are_warned_of():
    from recbench.data.schema_file import make_schema
    ids = [{"kind": "id", "name": "user_id"}, {"kind": "id", "name": "item_id", "side": "item"}]
    schema = make_schema({"features": [*ids, {"kind": "sequence", "name": "past", "embedding_name": "item_id_emb"}], "timestamp": "timestamp"})
    with pytest.warns(UserWarning, match="past tells the answer: 100% of its lists hold the row's own item"): dataset_from_frames(events(past=LISTS["list"]), schema=schema, verbose=False)


@pytest.mark.parametrize("column", [np.where(LABEL, RNG.random(ROWS), np.nan), np.where(LABEL, "done", None), [[one] for one in LABEL], pd.array(np.where(LABEL, 3, 0), dtype="Int64"), LABEL.astype(bool), np.where(LABEL, "ja", "nein")],
                         ids=["missing without a click", "text where clicked", "lists", "nullable", "bool", "German"])
def test_columns_that_tell_the_label_are_not_read(column):
    found, notes = read(events(label=LABEL, later=column), rows="all")
    assert "later" not in found and "100% of the label can be read from it" in notes


@pytest.mark.parametrize("name", ["Menge", "verweildauer", "durée", "quantité", "duración", "оценка", "购买数量", "dwell_ms", "isPurchased"])
def test_outcomes_of_other_languages_are_named(name):
    assert f"{name} (an outcome" in read(events(**{name: RNG.integers(0, 9, ROWS)}))[1]


def test_histories_with_a_few_unknown_items_share_the_table_of_items():
    lists = [[*row, 999] if place == 3 else row for place, row in enumerate(NOISE)]
    found, notes = read(events(history=lists))
    assert found["history"].table == "item_id_emb" and "history: 1 of 3,601 values are no item of the data, read as unknown" in notes
    data = dataset_from_frames(events(history=lists), verbose=False)
    assert data.row_sequences == ("history",) and data.row_items("train").lengths[3] == 4
    assert read(events(tags=[[500 + one for one in row] for row in NOISE]))[0]["tags"].table == "tags_emb"


@pytest.mark.parametrize("mark", [",", ";", "/", " "])
def test_another_separator_is_offered(mark):
    text = [mark.join(map(str, row)) for row in NOISE]
    assert f"seen: holds {mark!r}; give separator={mark!r} if these are lists" in read(events(seen=text))[1]
    assert read(events(seen=text), separator=mark)[0]["seen"].table == "item_id_emb"
    assert "separator" not in read(events(city=RNG.choice(["New York", "San Jose", "New Haven"], ROWS)))[1]


def test_one_huge_number_does_not_make_the_others_nothing():
    amount = np.where(np.arange(ROWS) == 3, 1e300, RNG.random(ROWS))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        scale = read(events(amount=amount))[0]["amount"].scale
        data = dataset_from_frames(events(amount=amount), verbose=False)
    assert scale == "log" and np.isfinite(data.train.dense.numpy()).all() and data.train.dense.std() > .9
    fitted = fit_scale(RawFeature(name="x", scale="standard"), pd.DataFrame({"x": [1e300, 3e300]}))
    assert fitted.mean == pytest.approx((2e300,)) and fitted.spread == pytest.approx((1e300,)) and encode_numbers(fitted, pd.Series([1e300])).item() == -1


def test_refusals_say_what_to_do():
    for frame, words in ((None, "events is None"), (events().user_id, "is a Series"), (events(timestamp=events().timestamp.astype(str)), "pandas.to_datetime"), (events(timestamp=pd.to_timedelta(events().timestamp, unit="s")), "must be numbers or dates")):
        with pytest.raises(ValueError, match=words): dataset_from_frames(frame, verbose=False)
