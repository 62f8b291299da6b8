"Several labels a row: published files of two shops, loaders, models, and evaluation by task."
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED
from sklearn.metrics import roc_auc_score

from recbench.core.config import ModelConfig
from recbench.data import dataset_from_frames, load_dataset
from recbench.data.feed.loader import RankLoader
from recbench.evaluate.ranking import evaluate_ranking, predict_split
from recbench.evaluate.retrieval import readable
from recbench.evaluate.task_rows import fit_task_baselines, judged_rows, rows_given
from recbench.models import create_model

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLES = SHARED / "data" / "tiny-samples"
samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="shared/data/tiny-samples is not there")


def two_tasks(data, kind="simple_multi_task", **second):
    "A model with a tower for each of the first two labels."
    features = [one for one in data.features() if not one.is_sequence]
    tower = {"mlp": {"hidden_units": [8]}, "losses": [{"binary_cross_entropy": {}}]}
    towers = [
        tower | {"tower_name": "first", "label_name": data.schema.label_names[0]},
        tower | {"tower_name": "second", "label_name": data.schema.label_names[1]} | second,
    ]
    groups = [{"group_name": "all", "feature_names": [one.name for one in features]}]
    config = ModelConfig.from_dict({"feature_groups": groups, kind: {"task_towers": towers}})
    torch.manual_seed(0)
    return create_model(config, features, list(data.schema.label_names[:2]))


@samples
@pytest.mark.parametrize("name, files, split, label", [
    ("ali-ccp", ["ali_ccp_train", "ali_ccp_val", "ali_ccp_test"], (100, 50, 50), "purchase"),
    ("aliexpress", ["aliexpress_train", "aliexpress_test"], (100, 20), "conversion"),
])
def test_published_samples(name, files, split, label):
    data = load_dataset(name, folder=SAMPLES)
    frames = [pd.read_csv(SAMPLES / f"{file}_sample.csv") for file in files]
    assert tuple(map(len, frames)) == split and data.schema.label_names == ("click", "conversion")
    assert sum(len(data.split(part)) for part in ("train", "valid", "test")) == sum(split)
    assert data.test.columns["click"].tolist() == frames[-1]["click"].tolist()
    assert data.test.columns["conversion"].tolist() == frames[-1][label].tolist()
    assert not {"click", "conversion", "purchase", "search_id"} & {one.name for one in data.features()}
    assert "given click" in repr(data)
    if name == "aliexpress":
        rows = frames[0].groupby("search_id").size()
        assert len(data.valid) == sum(rows[search] for search in rows.index
                                      if search in np.random.default_rng(0).permutation(rows.index)[:4])
    model = two_tasks(data)
    model.init_loss()
    for batch in RankLoader(data, 32):
        assert list(batch.labels) == ["click", "conversion"]
        model.total(model.loss(model.predict(batch), batch)).backward()


@pytest.mark.parametrize("name", ["ali-ccp", "aliexpress"])
def test_says_which_file_to_put_where(name, tmp_path):
    start = {"ali-ccp": "ali_ccp", "aliexpress": "aliexpress"}[name]
    with pytest.raises(FileNotFoundError, match=f"Put {start}_train.csv.* {start}_test.csv there"):
        load_dataset(name, folder=tmp_path)


@pytest.fixture(scope="module")
def clicks():
    return load_dataset("planted", task="rank", users=120, items=100)


def test_a_model_of_one_task_refuses_two_labels(clicks):
    features = [one for one in clicks.features() if not one.is_sequence]
    mlp = {"hidden_units": [8]}
    config = ModelConfig.from_dict({
        "feature_groups": [{"group_name": "deep", "feature_names": [one.name for one in features]}],
        "losses": [{"binary_cross_entropy": {}}],
        "multi_tower": {"towers": [{"input": "deep", "mlp": mlp}], "final": mlp},
    })
    with pytest.raises(ValueError, match="click.*conversion"):
        create_model(config, features, list(clicks.schema.label_names))


def test_labels_that_are_features_or_twice_or_alone():
    rows = pd.DataFrame({"user_id": [0, 1, 2] * 20, "item_id": [*range(6)] * 10, "timestamp": range(60),
                         "click": [0, 1, 1] * 20, "buy": [0, 1, 0] * 20})
    kinds = [{"kind": "id", "name": "user_id"}, {"kind": "id", "name": "item_id", "side": "item"}]
    given = {"features": kinds, "verbose": False, "labels": {"click": {}, "buy": {"after": "click"}}}
    data = dataset_from_frames(rows, **given)
    assert "50.00% given click" in repr(data)
    for change, said in (
        ({"features": [*kinds, {"kind": "raw", "name": "click"}]}, "label and a feature"),
        ({"labels": ["click", "click"]}, "twice"),
        ({"labels": ["click", "bye"]}, "did you mean 'buy'"),
        ({"labels": {"click": {}, "buy": {"after": "clock"}}}, "did you mean 'click'"),
        ({"labels": ["click", "timestamp"]}, "a label and the timestamp"),
    ):
        with pytest.raises(ValueError, match=said): dataset_from_frames(rows, **(given | change))
    for wrong, said in (
        (rows.assign(buy=1), r"20 such rows, first: 1 at row 0"),
        (rows.assign(click=rows["click"] * 2), r"0 or 1 \(40 such rows, first: 2 at row 1\)"),
        (rows.assign(buy=rows["buy"].where(rows.index != 7)), "first: (nan|None) at row 7"),
    ):
        with pytest.raises(ValueError, match=said): dataset_from_frames(wrong, **given)


def test_each_task_is_judged_on_its_own_rows(clicks):
    model = two_tasks(clicks, task_space_indicator_label="click", out_task_space_weight=0.0)
    assert [one.question for one in judged_rows(model.heads)] == [
        "click", "conversion", "conversion given click"
    ]
    fitted = fit_task_baselines(model.heads, clicks, lambda name: name == "means")
    table = evaluate_ranking(model, clicks, baselines=fitted, draws=30)
    given = evaluate_ranking(fitted["conversion given click"]["means"], rows_given(clicks, "click"),
                             baselines=False, draws=30)
    columns, found = clicks.test.columns, predict_split(model, clicks, "test")
    inside = columns["click"].numpy() == 1
    label, score = columns["conversion"].numpy(), found["probs_second"]
    rows = {name: table.loc[f"auc_second [{clicks.protocol}{end}]"]
            for name, end in (("all", ""), ("inside", ", click > 0"))}
    assert abs(rows["all"][type(model).__name__, "value"] - roc_auc_score(label, score)) < 1e-6
    assert abs(rows["inside"][type(model).__name__, "value"]
               - roc_auc_score(label[inside], score[inside])) < 1e-6
    counts = {name: one["rows", "count"] for name, one in rows.items()}
    assert counts == {"all": len(label), "inside": inside.sum()}
    assert rows["all"]["ceiling", "value"] == clicks.ceilings["conversion"]["auc"]
    assert rows["inside"]["ceiling", "value"] == clicks.ceilings["conversion given click"]["auc"]
    assert rows["inside"]["means", "value"] == given["UserItemMean", "value"].iloc[0]
    assert given["ceiling", "value"].iloc[0] == clicks.ceilings["conversion given click"]["auc"]
    assert f"{inside.sum()}, " in readable(table)["rows"].iloc[-1]
