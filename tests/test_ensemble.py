"""A ranking model with members: it trains, is saved, resumed, exported and judged as one model."""

import pytest
import torch

from recbench.core.config import DeepFMConfig, ModelConfig
from recbench.data import load_dataset
from recbench.data.rows.batch import join, make_batch
from recbench.evaluate import PlattScaled, evaluate_rows
from recbench.explore import footprint
from recbench.export.inputs import tensors_of
from recbench.export.program import export_program
from recbench.export.wrappers import ScriptWrapper
from recbench.interop.tzrec_save import save_tzrec_checkpoint
from recbench.models import Ensemble, create_model, rank_config, recipe_of, usual_model
from recbench.models.deepfm import DeepFM
from recbench.models.rank_configs import RANK_CONFIGS
from recbench.models.usual import usual_features
from recbench.train import Run, Trainer


@pytest.fixture(scope="module")
def clicks():
    return load_dataset("planted", task="rank")


def short(name, **more):
    recipe = recipe_of(name, "frappe").with_own(epochs=2, batch_size=512, patience=2)
    return recipe.with_own(architecture={"hidden_units": [16], "members": 3}, **more)


@pytest.fixture(scope="module")
def run(clicks, tmp_path_factory):
    place, recipe = tmp_path_factory.mktemp("ensemble") / "run", short("DCNV2")
    model = usual_model("DCNV2", clicks, recipe)
    Trainer(model, clicks, recipe=recipe, run_dir=place, progress=False).fit()
    return Run.load(place)


def test_a_run_comes_back_with_all_its_members(run, clicks):
    assert isinstance(run.model, Ensemble) and len(run.model.members) == 3
    assert recipe_of(run.model, "frappe") == recipe_of("DCNV2", "frappe")
    whole = evaluate_rows(run.model, clicks)
    parts = [evaluate_rows(member, clicks) for member in run.model.members]
    odds = torch.stack([torch.as_tensor(one.probability).logit() for one in parts]).mean(0)
    torch.testing.assert_close(torch.as_tensor(whole.probability), odds.sigmoid(), rtol=1e-4, atol=1e-5)
    assert whole.name == "DCNV2, 3 members"
    assert whole.values()["auc"] > min(one.values()["auc"] for one in parts)
    assert PlattScaled(run.model, clicks).model is run.model


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
def test_a_member_trains_as_it_would_alone(clicks, optimizer):
    penalty = 0.05 if optimizer == "adam" else 0.0
    recipe, losses = short("DCNV2", table_optimizer=optimizer, table_weight_decay=penalty), []
    several = usual_model("DCNV2", clicks, recipe)
    alone = usual_model("DCNV2", clicks, recipe, members=1)
    alone.load_state_dict(several.members[1].state_dict())
    for model in (several, alone):
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout): part.p = 0.0
        trainer = Trainer(
            model, clicks, batch_size=256, steps=20, seed=1, progress=False, recipe=recipe
        )
        losses.append(trainer.fit()["loss"].iloc[-1])
    own = several.members[1].state_dict()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-5)
    assert losses[0] < 1.5 * losses[1]      # a mean over members, no sum


@pytest.mark.parametrize("name", RANK_CONFIGS)
def test_every_ranking_model_can_have_members(name, clicks):
    model = usual_model(name, clicks, members=2).eval()
    batch = next(iter(Trainer(model, clicks, batch_size=32, steps=1, progress=False).loader))
    with torch.no_grad(): found, own = model(batch), [one(batch) for one in model.members]
    torch.testing.assert_close(found["logits"], (own[0]["logits"] + own[1]["logits"]) / 2)
    assert not torch.equal(own[0]["logits"], own[1]["logits"])


def test_its_program_answers_as_it_does(run, clicks):
    module = ScriptWrapper(run.model.eval())
    rows = join([clicks.user_rows("valid", torch.arange(40)), clicks.items.take(torch.arange(40))])
    program, names = export_program(module)
    with torch.no_grad(): wanted = run.model(make_batch(rows))
    found = dict(zip(names, program.module()(*tensors_of(rows, module.specs).values())))
    torch.testing.assert_close(found["probs"], wanted["probs"], rtol=1e-6, atol=1e-6)


def test_memory_counts_every_member(clicks):
    one, three = (footprint(clicks, usual_model("DCNV2", clicks, members=count)) for count in (1, 3))
    for part in ("tables", "other weights"):
        assert three.loc[part, "bytes"] == 3 * one.loc[part, "bytes"]


@pytest.mark.parametrize("towers", [1, 2])
def test_models_of_tasks_have_no_members(towers, clicks):
    names = ["click", "buy"][:towers]
    parts = [{"tower_name": name, "label_name": name, "losses": [{"binary_cross_entropy": {}}]}
             for name in names]
    config = ModelConfig(
        feature_groups=[{"group_name": "all", "feature_names": ["item_id"]}], members=2,
        mmoe={"num_expert": 2, "expert_mlp": {"hidden_units": [4]}, "task_towers": parts},
    )
    with pytest.raises(ValueError, match="^members is above 1; MMoE is no ranking model of one task"):
        create_model(config, clicks.features(), names)


def test_parts_that_a_ranking_model_promises_are_there(run, clicks):
    model = run.model
    model.init_loss()
    assert model.loss_set is model.members[0].loss_set and not model.variational_dropout
    batch = next(iter(Trainer(model, clicks, batch_size=8, steps=1, progress=False).loader))
    read, own = model.build_input(batch), model.members[0].build_input(batch)
    assert {*read} == {*own} and all(torch.equal(read[name], own[name]) for name in own)


@pytest.mark.parametrize("members", [0, -1, 1.5, "2 or 3"])
def test_members_that_cannot_be_are_refused(members, clicks):
    with pytest.raises(ValueError, match="members"):
        rank_config("DCNV2", clicks, members=members)


def test_a_checkpoint_for_another_library_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="members is 3; .* write one of model.members"):
        save_tzrec_checkpoint(run.model, tmp_path)
    assert (save_tzrec_checkpoint(run.model.members[0], tmp_path) / "model").is_dir()


class TotFM(DeepFM):
    def __init__(self, *args, bias=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.bias = bias

    def predict(self, batch):
        found = super().predict(batch)
        return found | {"extra": found["logits"] + self.bias}

    def loss(self, predictions, batch):
        return super().loss(predictions, batch) | {"more": predictions["extra"].square().mean()}

    def total(self, losses): return 3 * super().total(losses)


class HalfFM(DeepFM):
    def output_to_prediction(self, output, head=None):
        return {name: one / 2 for name, one in super().output_to_prediction(output, head).items()}


class TotFMConfig(DeepFMConfig, key="tot_fm"): pass
class HalfFMConfig(DeepFMConfig, key="half_fm"): pass


def guest(key, members, clicks):
    config = rank_config("DeepFM", clicks, hidden_units=[8])
    return ModelConfig(
        feature_groups=config.feature_groups, losses=config.losses, members=members,
        **{key: config.deepfm.model_dump()}
    )


def test_a_guest_s_own_total_predictions_and_arguments_count(clicks):
    torch.manual_seed(0)
    given = usual_features("DeepFM", clicks), [clicks.schema.label]
    model = create_model(guest("tot_fm", 2, clicks), *given, bias=1.0)
    model.init_loss()
    batch = next(iter(Trainer(model, clicks, batch_size=64, steps=1, progress=False).loader))
    for at_work in (True, False):
        found = model.train(at_work)(batch)
        losses, own = model.loss(found, batch), [one(batch) for one in model.members]
        torch.testing.assert_close(model.total(losses), 3 * sum(losses.values()))
        torch.testing.assert_close(found["extra"], (own[0]["extra"] + own[1]["extra"]) / 2)
        torch.testing.assert_close(found["extra"], found["logits"] + 1)
    with pytest.raises(ValueError, match="HalfFM has a output_to_prediction of its own"):
        create_model(guest("half_fm", 2, clicks), *given)
