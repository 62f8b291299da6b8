"""A call that names no setting trains as the model's recipe says; one that names any keeps the numbers
it had before there were recipes.
"""

import pytest
import torch

from recbench.data import Negatives
from recbench.data.feed.tree import category_tree
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.planted import planted, planted_clicks
from recbench.models import create_model, match_config, rank_config, recipe_of, usual_model
from recbench.models.rank_configs import rank_features
from recbench.train import CosineAnnealing, ExponentialAverage, LearningRate, ReduceOnPlateau, Trainer

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def world(): return planted(users=60, items=100, seed=0)


def losses(trainer): return [row["loss"] for row in trainer.fit().to_dict("records")]


def test_sasrec_trains_as_its_published_numbers(world):
    by_recipe = Trainer(usual_model("SASRec", world, layers=1), world, **QUIET)
    steps = 14 * len(by_recipe.loader)
    cosine = LearningRate(dense=CosineAnnealing(T_max=steps, warmup_size=min(200, steps // 10)))
    named = dict(
        batch_size=32,
        epochs=14,
        patience=5,
        learning_rate=1e-3,
        table_optimizer="adam",
        negatives=Negatives(kind="full", mask_past=True),
    )
    by_hand = Trainer(
        usual_model("SASRec", world, layers=1), world, callbacks=[cosine], **named, **QUIET
    )
    assert losses(by_recipe) == losses(by_hand)


def test_deepfm_trains_as_its_published_numbers():
    clicks = planted_clicks(users=60, items=100, max_history=0)
    features = rank_features("DeepFM", clicks.features(), 16, 0.1)
    torch.manual_seed(0)
    model = create_model(rank_config("DeepFM", features), features, ["click"])
    named = dict(
        batch_size=1024,
        epochs=20,
        patience=2,
        learning_rate=2e-3,
        table_optimizer="adam",
        table_learning_rate=2e-3,
        table_weight_decay=4e-3,
    )
    by_hand = losses(Trainer(model, clicks, callbacks=[ReduceOnPlateau(0.1)], **named, **QUIET))
    assert losses(Trainer(usual_model("DeepFM", clicks), clicks, **QUIET)) == by_hand


@pytest.mark.parametrize(
    "own",
    [{"epochs": 1}, {"learning_rate": 1e-3}, {"batch_size": 512}, {"callbacks": [ReduceOnPlateau()]}],
    ids=lambda own: next(iter(own)),
)
def test_what_names_a_setting_is_as_before(own, world):
    trainer = Trainer(usual_model("HSTUMatch", world), world, **own, **QUIET)
    found = trainer.settings
    assert "recipe" not in found and trainer.callbacks == own.get("callbacks", [])
    assert (
        found["batch_size"],
        found["table_optimizer"],
        found["table_learning_rate"],
        found["learning_rate"],
    ) == (512, "rowwise_adagrad", 0.1, 1e-3)
    assert (trainer.patience, found["weight_decay"], found["table_weight_decay"]) == (3, 0.0, 0.0)


def test_what_is_named_wins_over_a_recipe(world, capsys):
    trainer = Trainer(
        usual_model("HSTUMatch", world),
        world,
        recipe=recipe_of("HSTUMatch"),
        table_optimizer="rowwise_adagrad",
        steps=3,
    )
    assert (
        trainer.settings["table_learning_rate"] == 0.1
        and trainer.settings["learning_rate"] == 2e-3
        and trainer.steps == 3
    )
    assert (
        trainer.callbacks[0].dense.T_max == 3
        and "recipe: Recipe(embedding_dim=64" in capsys.readouterr().out
    )
    assert trainer.settings["recipe"] == recipe_of("HSTUMatch").changed()


@pytest.mark.parametrize(
    "name, width, spread",
    [
        ("DSSM", 16, None),
        ("DSSMV2", 16, None),
        ("DAT", 32, None),
        ("MIND", 16, None),
        ("SASRec", 64, 0.02),
        ("HSTUMatch", 64, 0.02),
    ],
)
def test_a_config_made_from_a_data_set_brings_the_recipes_tables(name, width, spread, world):
    "Features of widths 8 and 16 come with it; the model and its training are the usual ones."
    torch.manual_seed(0)
    model, usual = create_model(match_config(name, world), world.features(), ["label"]), usual_model(
        name, world
    )
    assert {(one.embedding_dim, one.init_std) for one in model.features} == {(width, spread)}
    assert model.config.model == usual.config.model
    states = model.state_dict(), usual.state_dict()
    assert states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )
    assert Trainer(model, world, **QUIET).settings == Trainer(usual, world, **QUIET).settings


def test_sasrec_of_two_steps_trains_as_the_usual_one(world):
    torch.manual_seed(0)
    model = create_model(match_config("SASRec", world, layers=1), world.features(), ["label"])
    weights = [weight.detach() for weight in model.sparse_parameters()[0]]
    assert all(weight.shape[1] == 64 and abs(float(weight.std()) - 0.02) < 1e-3 for weight in weights)
    trainer = Trainer(model, world, steps=5, recipe=recipe_of("SASRec"), **QUIET)
    assert (
        trainer.settings["recipe"] == recipe_of("SASRec").changed()
        and trainer.settings["table_optimizer"] == "adam"
    )
    usual = Trainer(
        usual_model("SASRec", world, layers=1), world, steps=5, recipe=recipe_of("SASRec"), **QUIET
    )
    assert losses(trainer) == losses(usual)


def test_the_nodes_of_tdm_stand_on_its_recipes_tables(world):
    tree = category_tree(world.item_frame["category"])
    model = create_model(
        match_config("TDM", world),
        tree_features(world.features(), "item_id", tree),
        ["label"],
        tree=tree,
    )
    assert {(one.embedding_dim, one.init_std) for one in model.features} == {(32, 0.1)}


@pytest.mark.parametrize("name", ["DeepFM", "DLRM", "MultiTowerDIN"])
def test_a_ranking_config_made_from_a_data_set_brings_the_recipes_tables(name):
    clicks = planted_clicks(users=60, items=100)
    torch.manual_seed(0)
    model, usual = create_model(rank_config(name, clicks), clicks.features(), ["click"]), usual_model(
        name, clicks
    )
    assert {one.init_std for one in model.features} == {
        0.1
    } and model.config.model == usual.config.model
    assert [one.embedding_dim for one in model.features] == [
        one.embedding_dim for one in usual.features
    ]
    assert all(
        torch.equal(mine, its)
        for mine, its in zip(model.state_dict().values(), usual.state_dict().values(), strict=True)
    )
    assert Trainer(model, clicks, **QUIET).settings == Trainer(usual, clicks, **QUIET).settings


def test_features_that_are_given_are_taken_as_they_are(world):
    config = match_config("SASRec", world, world.features())
    assert config.embedding_dim is None and config.init_std is None
    assert {
        one.embedding_dim for one in create_model(config, world.features(), ["label"]).features
    } == {8, 16}


def test_a_recipes_average_is_the_callbacks():
    clicks = planted_clicks(users=60, items=100, max_history=0)
    named = recipe_of("DeepFM").with_own(average_decay=0.9, epochs=2, schedule="constant")
    made = usual_model
    trained = [Trainer(made("DeepFM", clicks, named), clicks, recipe=recipe, callbacks=own, **QUIET)
               for recipe, own in ((named, []),
                                   (recipe_of("DeepFM").with_own(epochs=2, schedule="constant"),
                                    [ExponentialAverage(0.9, tables=True)]),
                                   (named, [ExponentialAverage(0.9, tables=True)]))]
    assert [len(trainer.callbacks) for trainer in trained] == [1, 1, 1]
    found = [(losses(trainer), *trainer.model.state_dict().values()) for trainer in trained]
    for other in found[1:]:
        assert found[0][0] == other[0] and all(map(torch.equal, found[0][1:], other[1:]))
    fused = Trainer(usual_model("DeepFM", clicks), clicks, recipe=named.with_own(
        table_optimizer="rowwise_adagrad").model_copy(update={"table_weight_decay": 0.0}), **QUIET)
    assert [one.settings() for one in fused.callbacks] == [{"decay": 0.9}]
