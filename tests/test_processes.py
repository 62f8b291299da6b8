"Several processes against one: the same losses of every step, evaluation, decisions and checkpoints."

import pytest
import torch
from torch import nn

from recbench.data import Negatives
from recbench.data.published.planted import planted, planted_clicks
from recbench.models import create_model, match_config
from recbench.models.rank_configs import rank_config, rank_features
from recbench.train import Run, Trainer
from recbench.train.launch import local_ranks


class Losses:
    "The loss of every step."

    def __init__(self): self.values = []

    def on_step(self, trainer, step, loss): self.values.append(float(loss))


def made(kind: str):
    "Data, model and settings of a kind, `<model>` or `<model>:<negatives>`."
    torch.manual_seed(0)
    name, _, negatives = kind.partition(":")
    if not negatives:
        data = planted_clicks(users=200, items=120, max_history=10)
        features = rank_features(name, data.features(), 16, 0.1)
        config = rank_config(name, features, hidden_units=(32, 16))
        return data, create_model(config, features, [data.schema.label]), {}
    data = planted(users=200, items=120, seed=0)
    config = match_config(name, data, hidden_units=(32,), output_dim=16, share_embedding=name != "DSSM",
                          in_batch_negative=negatives in ("in_batch", "mixed"))
    model = create_model(config, data.features(), [])
    for module in model.modules():
        if isinstance(module, nn.Dropout): module.p = 0.0
    return data, model, {"negatives": Negatives(kind=negatives, num_sample=33), "valid_rows": "all"}


def trained(kind: str, sharding: str | None, steps: int, **more) -> tuple[list[float], dict]:
    "Losses of the steps, and the last epoch's row."
    data, model, settings = made(kind)
    losses = Losses()
    more["callbacks"] = [losses, *more.get("callbacks", ())]
    trainer = Trainer(model, data, batch_size=64, steps=steps, seed=1, progress=False,
                      sharding=sharding, **settings, **more)
    trainer.fit()
    epoch = {name: value for name, value in trainer.history[-1].items() if name != "seconds"}
    return losses.values, epoch


@pytest.mark.parametrize("kind,shardings", [
    ("DeepFM", ("table_wise", "row_wise", None)),
    ("DSSM:sampled", ("row_wise",)),
    ("DSSM:in_batch", ("table_wise",)),
])
def test_two_ranks_train_what_one_process_trains(kind, shardings):
    ((one, epoch),) = local_ranks(1, trained, kind, None, 20)
    for sharding in shardings:
        found = local_ranks(2, trained, kind, sharding, 20)
        assert found[0] == found[1]
        torch.testing.assert_close(found[0][0], one, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[0][1], epoch, rtol=0, atol=1e-5)


class BreakAt:
    "Fails after a step, on all ranks."

    def __init__(self, step: int): self.at = step

    def on_step(self, trainer, step, loss):
        if step == self.at: raise RuntimeError("broken")


def recorded(folder: str, sharding: str | None, at: int | None) -> list[float]:
    "Losses of a recorded run that breaks at a step, or that goes on to step 40."
    data, model, _ = made("DeepFM")
    losses = Losses()
    watchers = [losses] if at is None else [losses, BreakAt(at)]
    trainer = Trainer(model, data, batch_size=64, steps=40, seed=1, progress=False, run_dir=folder,
                      sharding=sharding, callbacks=watchers, save_every_steps=15)
    try: trainer.fit()
    except RuntimeError: assert at is not None
    return losses.values


def test_saved_on_two_ranks_and_resumed_on_one_and_on_three(tmp_path):
    ((whole, _),) = local_ranks(1, trained, "DeepFM", None, 40)
    for count, sharding in ((1, None), (3, "table_wise")):
        folder = str(tmp_path / str(count))
        local_ranks(2, recorded, folder, "row_wise", 17)
        rest = local_ranks(count, recorded, folder, sharding, None)
        torch.testing.assert_close(rest[0], whole[15:], rtol=0, atol=1e-5)
        assert len(Run.load(folder).losses) == 40


class EndAt:
    "Ends the training after a step, on the last rank alone."

    def on_step(self, trainer, step, loss):
        if step == 4 and trainer.world.rank == trainer.world.size - 1: trainer.stop("enough")


def stopped() -> str:
    "Why the training ended, and when."
    data, model, _ = made("DeepFM")
    trainer = Trainer(model, data, batch_size=64, steps=9, seed=1, progress=False, callbacks=[EndAt()])
    trainer.fit()
    return f"{trainer.stopped} after {trainer.step}"


def test_one_rank_stops_all(): assert local_ranks(2, stopped) == ["enough after 4"] * 2


def goes_bad() -> str:
    "What a rank says when another one's rows become NaN."
    data, model, _ = made("DeepFM")

    class Spoil:
        def on_step(self, trainer, step, loss):
            if step == 3 and trainer.world.rank == 1:
                with torch.no_grad(): next(iter(model.parameters())).fill_(torch.nan)

    trainer = Trainer(model, data, batch_size=64, steps=9, seed=1, progress=False, callbacks=[Spoil()])
    try: trainer.fit()
    except FloatingPointError as error: return str(error)
    return "went on"


def test_nan_on_one_rank_stops_all():
    said = local_ranks(2, goes_bad)
    assert said[0] == said[1] == "binary_cross_entropy is nan at step 4"
