"""The training step of every model where no number may be looked at, as on a GPU: on `meta` tensors,
which have none, each call that reads one fails.
"""
import sys
from contextlib import ExitStack
from unittest.mock import Mock, patch

import pytest
import torch
from conftest import ROOT

from recbench.core import stack
from recbench.data.feed.loader import RankLoader
from recbench.data.published.planted import planted_clicks
from recbench.models.base import create_model
from recbench.models.rank_configs import rank_config, rank_features
from recbench.train import device_check
from recbench.train.tasks import task_of
from recbench.train.wrappers import TrainWrapper

sys.path.insert(0, str(ROOT / "benchmarks"))
from two_processes import MATCH, OTHERS, RANK, TASKS, made  # noqa: E402

sys.path.remove(str(ROOT / "benchmarks"))

# losses that wait for a device: they count sessions, or pairs of rows, as many as labels say
WAITS = ("jrc_loss", "listwise_rank_loss", "listwise_distill_loss", "pairwise_loss",
         "pairwise_logistic_loss", "pairwise_focal_loss", "pairwise_hinge_loss")
READS = (RuntimeError, NotImplementedError)   # of PyTorch where a meta tensor is asked for a number


@pytest.fixture(autouse=True)
def autocast_of_meta():
    "Autocast knows no device `meta`; it is off in these steps."
    real, enabled = torch.autocast, torch.is_autocast_enabled
    plain = lambda device: "cpu" if device == "meta" else device
    with patch("torch.autocast", lambda device, *more, **named: real(plain(device), *more, **named)), \
            patch("torch.is_autocast_enabled", lambda device="cpu": enabled(plain(device))):
        yield


def step(model, batch):
    "Forward, backward and train metrics of a batch."
    wrapper = TrainWrapper(model).to("meta").train()
    total, (losses, predictions, batch) = wrapper(batch.to("meta"))
    total.backward()
    model.update_train_metric(predictions, batch)
    assert total.is_meta and any(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("kind", [*MATCH, *RANK, *TASKS, *OTHERS])
def test_no_number_is_looked_at(kind):
    data, model, settings = made(kind)
    task = task_of(model, data, settings.get("negatives"), (10,))
    loader = settings.get("loader") or task.loader(model, data, 64, 0)
    step(model, next(iter(loader)))


@pytest.mark.parametrize("kind", ["DSSM in-batch", "DSSM full"])
def test_no_number_is_looked_at_where_the_matrix_is_never_held(kind):
    data, model, settings = made(kind)
    task = task_of(model, data, settings["negatives"], (10,))
    batch = next(iter(task.loader(model, data, 64, 0)))
    with patch.object(type(model), "similarity_cells", 0), \
            patch.object(type(model), "metric_cells", 640):
        step(model, batch)


@pytest.fixture(scope="module")
def clicks(): return planted_clicks(users=60, items=100, max_history=5)


@pytest.mark.parametrize("loss", [
    "binary_cross_entropy", "binary_focal_loss", "l2_loss", "sigmoid_l2_loss", "f1_reweighted_loss",
    "softmax_cross_entropy", *WAITS])
def test_losses_that_wait_are_these(clicks, loss):
    features = rank_features("DeepFM", clicks.features(), 8, 0.1)
    settings = {"session_name": "user_id"} if loss in WAITS else {}
    config = rank_config("DeepFM", features, hidden_units=(8,), losses=[{loss: settings}])
    classes = 2 if loss in ("jrc_loss", "softmax_cross_entropy") else 1
    model = create_model(config.model_copy(update={"num_class": classes}), features, ["click"])
    batch = next(iter(RankLoader(clicks, 64, 0)))
    if loss not in WAITS: return step(model, batch)
    with pytest.raises(READS): step(model, batch)


def test_the_check_of_a_card_that_is_the_cpu_by_another_name(capsys):
    real, waits = device_check.steps_on, Mock()
    there = {"is_available": lambda: True, "device_count": lambda: 2, "synchronize": waits,
             "get_device_name": lambda device: f"card of {device}"}
    with ExitStack() as all_patches:
        for name, call in there.items(): all_patches.enter_context(patch.object(torch.cuda, name, call))
        all_patches.enter_context(patch.object(
            device_check, "steps_on", lambda kind, device, *more: real(kind, "cpu", *more)))
        for kind in device_check.KINDS:
            assert device_check.check("cuda:1", [kind], 3) == 0
            assert kind in capsys.readouterr().out.split("card of cuda:1")[1]
        assert device_check.check("cuda:2", steps=3) == 1
        clock = device_check._Clock(torch.device("cuda"))
        for step in (1, 20, 21): clock.on_step(Mock(steps=21), step, torch.ones(()))
    assert "cards are 2" in capsys.readouterr().out and waits.call_count == len(clock.ends) == 2


def test_what_the_check_says_without_a_card(capsys):
    with patch.object(torch.cuda, "device_count", lambda: 0), pytest.raises(SystemExit, match="1"):
        stack.main(["--check", "cuda", "--steps", "3"])
    said = capsys.readouterr().out
    assert "missing: torch" in said and "table_optimizer='adam'" in said
    assert "nothing is compared: there is no device 'cuda' here, cards are 0" in said
    with pytest.raises(SystemExit, match="2"): stack.main(["--check"])
