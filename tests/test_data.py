"MovieLens-100K is split as the protocol says, row for row."
import pandas as pd
import pytest
from conftest import SHARED

PROTOCOLS = SHARED / "data" / "movielens-100k" / "protocols"
pytestmark = pytest.mark.skipif(not PROTOCOLS.is_dir(), reason="no protocol files: ../shared/data/movielens-100k/protocols is not there")


@pytest.fixture(scope="module")
def dataset():
    from recbench.data import load_dataset
    return load_dataset("movielens-100k")


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


def test_catalogue_holds_every_item(dataset):
    assert len(dataset.item_frame) == 1682
