"""A title of the events stands with the items once, named as a feature or not."""

import numpy as np
import pandas as pd
import pytest

from recbench.data import dataset_from_frames
from recbench.data.rows.features import IdFeature


@pytest.fixture
def events():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 80, 1200)
    return pd.DataFrame({
        "user_id": rng.integers(0, 60, 1200), "item_id": items,
        "title": [f"the film {item}" for item in items], "timestamp": np.arange(1200),
    })


def test_a_title_is_shown_and_not_read(events):
    data = dataset_from_frames(events, verbose=False)
    assert "title" not in [one.name for one in data.features()]
    told = dict(zip(events["item_id"], events["title"]))
    assert data.item_frame["title"].tolist() == [told[item] for item in data.item_frame["item_id"]]


def test_a_title_that_is_named_is_read(events):
    named = [IdFeature(name="user_id"), IdFeature(name="item_id", side="item"),
             IdFeature(name="title", side="item")]
    data = dataset_from_frames(events, features=named, verbose=False)
    assert "title" in [one.name for one in data.features()]


def test_a_role_that_is_shown_changes_nothing(events):
    plain = dataset_from_frames(events, verbose=False)
    for name in ("item_id", "user_id"):
        assert dataset_from_frames(events, shown=[name, "title"], verbose=False).item_frame.equals(
            plain.item_frame)
