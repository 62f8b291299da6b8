"A tree travels with its run, and a run goes on with its own tree only."
import pytest
import torch

from recbench.core.config import ModelConfig
from recbench.data.feed.tree import category_tree, tree_from_codes
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.planted import planted
from recbench.evaluate.tree_index import TreeIndex
from recbench.models.tdm import TDM
from recbench.train import Trainer
from recbench.train.runs import Run


@pytest.fixture(scope="module")
def world():
    return planted(users=60, items=100)


def make(data, tree):
    groups = [
        {"group_name": "node", "feature_names": ["tree_level", "category"]},
        {"group_name": "seq", "feature_names": ["item_id", "history"], "group_type": "SEQUENCE"},
    ]
    settings = {
        "newest_first": True,
        "multiwindow_din": {"windows_len": [1, 3], "attn_mlp": {"hidden_units": [4]}},
        "final": {"hidden_units": [8]},
    }
    torch.manual_seed(0)
    return TDM(
        ModelConfig(feature_groups=groups, losses=[{"binary_cross_entropy": {}}], tdm=settings),
        tree_features(data.features(), "item_id", tree),
        ["label"],
        tree=tree,
    )


def train(data, tree, folder, epochs=1):
    model = make(data, tree)
    model.init_loss()
    Trainer(model, data, batch_size=64, epochs=epochs, run_dir=folder, progress=False).fit()
    return model


def test_a_run_brings_its_tree_back(world, tmp_path):
    model = train(world, category_tree(world.items.singles[:, -1], 3), tmp_path)
    again = Run.load(tmp_path).model
    assert again.tree.level_sizes == model.tree.level_sizes and torch.equal(
        again.tree.items, model.tree.items
    )
    for beam in (None, 8):
        torch.testing.assert_close(
            *(
                TreeIndex(one, world, beam).score_rows(world, "test", torch.arange(20))
                for one in (model.eval(), again)
            ),
            equal_nan=True,
        )


def test_a_run_is_not_resumed_on_another_tree(world, tmp_path):
    tree = category_tree(world.items.singles[:, -1], 3)
    train(world, tree, tmp_path)
    train(world, tree, tmp_path, epochs=2)
    other = tree_from_codes(tree.codes[tree.node_of_item].flip(0), 3)
    with pytest.raises(ValueError, match="tree.fingerprint"): train(world, other, tmp_path)
