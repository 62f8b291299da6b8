"Searches that were given what they cannot answer: each says so, in this process and at once."
import pandas as pd
import pytest
import torch

from recbench.data.feed.tree import category_tree, cluster_tree, split_codes
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.planted import planted
from recbench.data.rows.features import with_embedding_dim
from recbench.data.rows.table import Jagged
from recbench.evaluate.item_index import ItemIndex
from recbench.evaluate.recommendations import recommend
from recbench.evaluate.retrieval import evaluate
from recbench.evaluate.tree_index import TreeIndex
from recbench.models import create_model
from recbench.models.match_configs import match_config
from recbench.train.runs import Run
from recbench.train.trainer import Trainer

ITEMS = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda b: cluster_tree(ITEMS, b),
        lambda b: category_tree(torch.zeros(60), b),
        lambda b: split_codes(60, b),
    ],
)
@pytest.mark.parametrize("branches", [1, 0, -2, 2.0, "2", True, None])
def test_a_node_has_at_least_two_children(make, branches):
    with pytest.raises(ValueError, match="branches is .*; must be a whole number of at least 2"):
        make(branches)


@pytest.mark.parametrize("kind", ["exact", "flat", "ivf", "hnsw"])
@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"effort": 0}, "effort"),
        ({"effort": 2**40}, "effort"),
        ({"effort": 1.5}, "effort"),
        ({"effort": "32"}, "effort"),
        ({"effort": True}, "effort"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**40}, "seed"),
        ({"item_emb": ITEMS[:, :0]}, "item_emb"),
        ({"item_emb": ITEMS[:0]}, "item_emb"),
        ({"item_emb": ITEMS.clone().index_fill_(0, torch.tensor([7]), float("nan"))}, "item_emb"),
    ],
)
def test_an_index_refuses_what_would_end_the_process(kind, wrong, named):
    with pytest.raises(ValueError, match=f"^{named} "):
        ItemIndex(**{"item_emb": ITEMS, "kind": kind, **wrong})


@pytest.mark.parametrize("kind", ["exact", "flat", "ivf", "hnsw"])
def test_an_index_refuses_users_without_a_place(kind):
    index, users = ItemIndex(ITEMS, kind), torch.randn(3, 8)
    for value in (float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match="user_emb has 1 users with NaN or infinite numbers, the first is 2"
        ):
            index.search(users.index_fill(0, torch.tensor([2]), value), 5)
    for k in (0, 61, 1.5, True, "5"):
        with pytest.raises(ValueError, match=r"^k is .*must be a whole number in 1\.\.60"):
            index.search(users, k)
    with pytest.raises(ValueError, match="seen has 2 rows; must have one for each of 3 users"):
        index.search(users, 5, Jagged(torch.tensor([1, 2]), torch.tensor([0, 1]), torch.tensor([1, 1])))
    assert ItemIndex(ITEMS, kind, effort=2**31 - 1).search(users, 60)[0].shape == (3, 60)


@pytest.mark.parametrize("more", [-1, 1])
def test_scores_of_another_width_are_refused(more):
    data = planted(users=60, items=100, seed=0)

    class Wide:
        def score_rows(self, dataset, split, rows): return torch.randn(len(rows), 100 + more)

    for call in (lambda: evaluate(Wide(), data, [10]), lambda: recommend(Wide(), data, 10)):
        with pytest.raises(
            ValueError, match=rf"scores are \[\d+, {100 + more}\]; must be \[\d+, 100\]"
        ):
            call()


def test_a_beam_follows_the_length_of_the_list(tmp_path):
    data = planted(users=60, items=300, seed=0, max_recent=0, max_history=8)
    tree = cluster_tree(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), 2)
    features = with_embedding_dim(tree_features(data.features(), "item_id", tree), 4)
    torch.manual_seed(0)
    model = create_model(
        match_config("TDM", data, features, hidden_units=[8]), features, ["label"], tree=tree
    )
    Trainer(
        model, data, epochs=1, steps=2, progress=False, run_dir=tmp_path / "run", top_k=(10, 90)
    ).fit()
    run, rows = Run.load(tmp_path / "run"), data.user_frame.head(2).assign(history=[[], []])
    for k in (10, 100, 300): assert len(run.recommend(rows, k)) == 2 * k
    with pytest.warns(UserWarning, match="beam 8 lists at most 16 items; for 100 it is 100"):
        wide = evaluate(TreeIndex(model, data, 8), data, [100]).mean()
    pd.testing.assert_series_equal(wide, evaluate(TreeIndex(model, data, 100), data, [100]).mean())
    with pytest.warns(UserWarning, match="beam 8 lists"):
        assert (recommend(TreeIndex(model, data, 8), data, 60).items >= 0).all()
