"A row's prediction is its own: it does not depend on which rows are asked with it."
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recbench.core.config import ModelConfig
from recbench.data.feed.loader import RankLoader
from recbench.data.feed.tree import category_tree
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.load import load_dataset
from recbench.data.rows.batch import BASE, Batch, make_batch
from recbench.data.rows.features import with_embedding_dim
from recbench.data.rows.toy import toy_clicks
from recbench.evaluate import TreeIndex
from recbench.evaluate.retrieval import embed_items, embed_users
from recbench.layers import sequences
from recbench.models.base import MODELS, create_model
from recbench.models.match_configs import MATCH_CONFIGS, match_config
from recbench.models.rank_configs import RANK_CONFIGS, rank_config, rank_features
from recbench.models.toy_training import toy_model

pytestmark = pytest.mark.usefixtures("one_thread")
CLOSE = dict(rtol=1e-4, atol=2e-6)


def spread(model):
    "Weights of a size that lets every part of a row be heard."
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters(): weight.add_(0.3 * torch.randn_like(weight))
    return model.eval()


@pytest.fixture(scope="module")
def world():
    return load_dataset("planted", users=60, items=60, clicks=12)


def match_model(name, world):
    features = with_embedding_dim(tuple(world.features()), 8)
    config, tree = match_config(name, world, features, hidden_units=[8], output_dim=8), None
    if name == "HSTUMatch":
        given = {field: value for field, value in config.model_dump().items() if value is not None}
        given["hstu_match"]["user_tower"]["hstu"]["stu"]["scaling_seqlen"] = -1  # the config's default
        config = ModelConfig(**given)
    if name == "TDM": tree = category_tree(world.items.singles[:, -1], 3)
    return spread(
        create_model(
            config,
            tree_features(features, "item_id", tree) if tree else features,
            ["label"],
            **({"tree": tree} if tree else {}),
        )
    )


@pytest.mark.parametrize("elsewhere", [False, True], ids=["cpu", "as on a device"])
@pytest.mark.parametrize("name", MATCH_CONFIGS)
def test_a_user_is_the_same_alone_and_beside_longer_histories(name, elsewhere, world, monkeypatch):
    model, rows = match_model(name, world), torch.arange(len(world.test))
    lengths = world.test.jagged["history"].lengths
    assert len(lengths.unique()) > 2 or name not in ("SASRec", "HSTUMatch")
    score = (
        (lambda part: TreeIndex(model, world, 60).score_rows(world, "test", part))
        if name == "TDM"
        else (lambda part: embed_users(model, world, "test", part))
    )
    with torch.no_grad():
        together = score(rows)
        if elsewhere:  # off the CPU rectangles are as wide as a row can be
            for module in (
                "recbench.layers.hstu",
                "recbench.layers.capsule",
                "recbench.models.sasrec",
                "recbench.layers.embedding_group",
            ):
                monkeypatch.setattr(f"{module}.longest", lambda lengths, most: most)
        alone = torch.cat([score(rows[i:i + 1]) for i in rows.tolist()])
    torch.testing.assert_close(alone, together, equal_nan=True, **CLOSE)
    assert (
        len(together.nan_to_num().flatten(1).round(decimals=4).unique(dim=0)) > 10
    )  # the users do differ


@pytest.mark.parametrize("name", [name for name in MATCH_CONFIGS if name != "TDM"])
def test_an_item_is_the_same_whoever_else_is_embedded(name, world):
    model = match_model(name, world)
    with torch.no_grad():
        every = embed_items(model, world)
        alone = torch.cat(
            [
                model.item_embedding(make_batch(None, world.items.take(torch.tensor([i]))))
                for i in range(len(world.items))
            ]
        )
    torch.testing.assert_close(alone, every, **CLOSE)


@pytest.mark.parametrize("name", RANK_CONFIGS)
def test_a_row_is_ranked_alike_alone_and_in_a_batch(name):
    data = load_dataset("planted", task="rank")
    features = rank_features(name, data.features(), 8, 0.1)
    model, loader = spread(
        create_model(rank_config(name, features, hidden_units=[8]), features, [data.schema.label])
    ), RankLoader(data, 64)
    with torch.no_grad():
        together = model.predict(loader.batch(torch.arange(64)))
        alone = [model.predict(loader.batch(torch.tensor([i]))) for i in range(64)]
    for key, value in together.items():
        torch.testing.assert_close(torch.cat([one[key] for one in alone]), value, **CLOSE)
    assert together["probs"].std() > 0.01


LAYERS = {"hidden_units": [8]}


def batch_rows(batch, row):
    "One row of a toy batch as a batch of its own."
    ids = batch.sparse_features[BASE]
    cut = {name: ids[name].to_dense()[row] for name in ids.keys()}
    numbers = batch.dense_features[BASE]
    return Batch(
        sparse_features={BASE: KeyedJaggedTensor.from_lengths_sync(
            list(cut), torch.cat(list(cut.values())), torch.tensor([len(one) for one in cut.values()])
        )},
        dense_features={BASE: KeyedTensor(
            numbers.keys(), numbers.length_per_key(), numbers.values()[row:row + 1]
        )},
    )


TASK_MODELS = {
    "SimpleMultiTask": ("simple_multi_task", {}),
    "MMoE": ("mmoe", {"expert_mlp": LAYERS}),
    "PLE": ("ple", {"extraction_networks": [
        {"network_name": name, "expert_num_per_task": 1, "task_expert_net": LAYERS} for name in "ab"
    ]}),
    "DBMTL": ("dbmtl", {"bottom_mlp": LAYERS, "expert_mlp": LAYERS}),
    "ESMM": ("esmm", {"groups": [{"input": "all", "mlp": LAYERS}]}),
    "AITM": ("aitm", {"task_mlp": LAYERS}),
    "PEPNet": ("pepnet", {"uia_group_name": "all", "domain_group_name": "all",
                          "ppnet_hidden_units": [8]}),
}


@pytest.mark.parametrize("name", TASK_MODELS)
def test_a_row_of_several_tasks_is_ranked_alike_alone_and_in_a_batch(name):
    data = load_dataset("planted", task="rank")
    features = rank_features("DCNV2", data.features(), 8, 0.1)
    key, settings = TASK_MODELS[name]
    towers = [
        {"tower_name": label, "label_name": label, "losses": [{"binary_cross_entropy": {}}]}
        for label in ("click", "conversion")
    ]
    if name == "AITM": towers[1]["relation_tower_names"] = ["click"]
    names = [one.name for one in features if not one.is_sequence]
    group = {"group_name": "all", "feature_names": names}
    config = ModelConfig.from_dict({"feature_groups": [group], key: settings | {"task_towers": towers}})
    model = spread(create_model(config, features, ["click", "conversion"]))
    loader = RankLoader(data, 64)
    with torch.no_grad():
        together = model.predict(loader.batch(torch.arange(64)))
        alone = [model.predict(loader.batch(torch.tensor([i]))) for i in range(64)]
    for label in ("click", "conversion"):
        value = together[f"probs_{label}"]
        torch.testing.assert_close(torch.cat([one[f"probs_{label}"] for one in alone]), value, **CLOSE)
        assert value.std() > 0.003


TOYS = {
    "CMBF": ("cmbf", "x", {"config": dict(
        text_head_size=8, text_multi_head_num=2, image_cross_head_size=4, multi_head_num=2,
        text_cross_head_size=8), "final": LAYERS}),
    "RocketLaunching": ("rocket_launching", "a b c x", {"booster_mlp": LAYERS, "light_mlp": LAYERS}),
}


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_row_is_ranked_alike_alone_and_in_a_batch(name):
    key, features, settings = TOYS[name]
    groups = [("image", features, "DEEP"), ("general", "a b c", "DEEP"), ("text", "history", "DEEP")]
    read = groups if key == "cmbf" else [("all", features, "DEEP")]
    model, rows = spread(toy_model(read, key, settings)), toy_clicks(64)
    texts = rows.sparse_features[BASE]["history"].lengths()
    assert texts.min() == 0 < texts.max()
    with torch.no_grad():
        together = model.predict(rows)
        alone = [model.predict(batch_rows(rows, i)) for i in range(64)]
    probabilities = [key for key in alone[0] if key.startswith("probs")]
    for key in probabilities:
        torch.testing.assert_close(torch.cat([one[key] for one in alone]), together[key], **CLOSE)
        assert together[key].std() > 0.003
    assert probabilities


def test_an_item_of_metric_learning_is_the_same_alone_and_in_a_batch():
    data = load_dataset("planted")
    groups = [{"group_name": "item", "feature_names": ["item_id", "category"]},
              {"group_name": "more", "feature_names": ["brand", "log_price"]}]
    settings = {"input": "item", "highway": [{"input": "more", "emb_size": 8}], "mlp": LAYERS,
                "output_dim": 16, "info_nce_loss": {}}
    config = ModelConfig.from_dict({"feature_groups": groups, "metric_learning": settings})
    features = with_embedding_dim(tuple(data.features()), 8, 0.1)
    model = spread(create_model(config, features, ["user_index"]))
    with torch.no_grad():
        together = model.predict(data.item_batch(torch.arange(64)))["embedding"]
        alone = [model.predict(data.item_batch(torch.tensor([i])))["embedding"] for i in range(64)]
    torch.testing.assert_close(torch.cat(alone), together, **CLOSE)
    assert together.std(0).min() > 0.01


def test_no_model_of_the_zoo_is_left_out():
    own = {name for name, kind in MODELS.items() if kind.__module__.startswith("recbench.")}
    assert own == {*MATCH_CONFIGS, *RANK_CONFIGS, *TASK_MODELS, *TOYS, "CoMetricLearningI2I",
                   "Ensemble"}
    assert sequences.longest(torch.tensor([2, 5]), 9) == 5
