"What a run recommends for raw rows, from its folder alone, is what evaluation ranked first, with every matching model."
import numpy as np
import pytest
import torch

from recbench.data.features import with_embedding_dim
from recbench.data.planted import planted
from recbench.data.tree import category_tree
from recbench.data.tree_nodes import tree_features
from recbench.evaluate import TreeIndex, recommend
from recbench.models import create_model
from recbench.models.match_configs import MATCH_CONFIGS, match_config
from recbench.train import Trainer
from recbench.train.runs import Run


@pytest.fixture(scope="module")
def world():
    return planted(users=80, items=100)


def raw_users(data):
    "Test users as they would come from a log: profile, and the ids of earlier items, oldest first."
    parts = [data.train.columns, data.valid.columns]
    users, items, times = (np.concatenate([part[name].numpy() for part in parts]) for name in ("user_index", "item_index", "timestamp"))
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
    model = create_model(match_config(name, world, features, hidden_units=[8], output_dim=8), tree_features(features, "item_id", tree) if tree else features, ["label"], **parts)
    Trainer(model, world, batch_size=64, epochs=1, run_dir=tmp_path, progress=False).fit()
    run, rows = Run.load(tmp_path), raw_users(world)
    found = run.recommend(rows, k=7, beam=8)
    lists = recommend(TreeIndex(model, world, 8) if tree else model, world, 7).items
    keys = world.item_frame["item_id"].to_numpy()
    for row, items in enumerate(lists.tolist()): assert found.loc[found["row"] == row, "item_id"].tolist() == [keys[item] for item in items if item >= 0]
    again = run.recommend(rows, k=7, keep_seen=True, beam=100)
    had = {row: set(items) for row, items in enumerate(rows["history"])}
    assert len(again) == 7 * len(rows) and not any(item in had[row] for row, item in zip(found["row"], found["item_id"]))
    assert any(item in had[row] for row, item in zip(again["row"], again["item_id"]))
    cold = run.recommend(rows.head(1).assign(history=[[]]), k=7, beam=100)          # nobody in the batch has a past
    assert cold["rank"].tolist() == list(range(1, 8)) and cold["score"].notna().all() and cold["score"].is_monotonic_decreasing
    assert run.recommend(rows.head(0)).columns.tolist() == found.columns.tolist() and run.recommend(rows.head(0)).empty
