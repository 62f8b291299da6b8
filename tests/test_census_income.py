"""Census income: the published rows, both labels, the split, and what is said where the file is not."""

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from recbench.data.published import census_income

FILE = SHARED / "data" / "census-income-kdd" / "census_income_test.parquet"


@pytest.mark.skipif(not FILE.is_file(), reason="shared/data/census-income-kdd is not there")
def test_published_rows():
    rows, data = pd.read_parquet(FILE), census_income.census_dataset(pd.read_parquet(FILE))
    order = np.random.default_rng(0).permutation(len(rows))
    parts = np.split(order, [59857, 79809])
    assert [len(data.split(name)) for name in ("train", "valid", "test")] == [59857, 19952, 19953]
    for name, part in zip(("train", "valid", "test"), parts):
        columns, own = data.split(name).columns, rows.iloc[part]
        assert (columns["income"].numpy() == (own["income"] == "50000+.")).all()
        assert (columns["marital"].numpy() == (own["marital_stat"] == "Never married")).all()
    read = {feature.name for feature in data.features()}
    assert not read & {"income", "marital", "marital_stat", "instance_weight"}
    assert {name.removesuffix("_bucket") for name in read} == set(rows.columns) - {
        "income", "marital_stat", "instance_weight"
    }


def test_says_what_to_put_where(monkeypatch):
    monkeypatch.setattr(census_income, "find_files", lambda *asked: None)
    with pytest.raises(FileNotFoundError, match="Put census_income_test.parquet .*data/census-income"):
        census_income.census_income()
