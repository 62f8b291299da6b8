"Negatives of every kind through a training: memory, resumption, workers, and the order of item rows."
import pandas as pd
import pytest
import torch
from conftest import ROOT, outputs, run_papermill, tail
from torch.utils.data import DataLoader, IterableDataset

from recbench.core.config import ModelConfig
from recbench.data import Negatives, TrainLoader, load_dataset
from recbench.data.sequence_loader import SequenceLoader
from recbench.models import create_model
from recbench.train import Trainer
from recbench.train.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("in_batch", "mixed", "sampled", "sampled_v2", "hard", "hard_v2")


@pytest.fixture(scope="module")
def world():
    return load_dataset("planted", users=150, items=300)


def trainer(world, folder=None, callbacks=(), **negatives):
    chosen = Negatives(num_sample=24, num_hard=2, **negatives)
    sides = {side: [feature.name for feature in world.features() if feature.side == side] for side in ("user", "item")}
    groups = [{"group_name": side, "feature_names": names} for side, names in sides.items()]
    config = ModelConfig(feature_groups=groups, losses=[{"softmax_cross_entropy": {}}], dssm={
        "user_tower": {"input": "user"}, "item_tower": {"input": "item"}, "output_dim": 8, "similarity": "COSINE", "temperature": 0.1, "in_batch_negative": chosen.kind in ("in_batch", "mixed")})
    torch.manual_seed(0)
    model = create_model(config, [feature.model_copy(update={"embedding_dim": 8}) for feature in world.features()], ["label"])
    return Trainer(model, world, negatives=chosen, batch_size=128, epochs=2, progress=False, run_dir=folder, callbacks=callbacks)


class StopAt:
    def __init__(self, step): self.step = step

    def on_step(self, trainer, step, loss):
        if step == self.step: raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_memory_adds_columns_that_the_loss_reads(world, kind):
    runs = {memory: trainer(world, kind=kind, memory=memory) for memory in (0, 3)}
    for run in runs.values(): run.model.train()
    losses = {memory: [run.train_step(batch)[0].item() for batch, _ in zip(run.loader, range(5))] for memory, run in runs.items()}
    assert losses[0][0] == losses[3][0] and losses[0][1] != losses[3][1]
    assert runs[0].memory is None and len(runs[3].memory.parts) == 3


@pytest.mark.parametrize("kind", ["in_batch", "hard_v2"])
def test_memory_in_chunks_is_the_same_loss(world, kind):
    one, other = (trainer(world, kind=kind, memory=4) for _ in range(2))
    other.model.similarity_cells = 0
    for run in (one, other): run.model.train()
    for first, second in zip(one.loader, other.loader):
        torch.testing.assert_close(one.train_step(first)[0], other.train_step(second)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["in_batch", "sampled_v2", "hard_v2"])
def test_a_training_with_memory_goes_on_to_the_same_end(world, kind, tmp_path):
    whole = trainer(world, tmp_path / "whole", kind=kind, memory=3)
    history = whole.fit()
    trainer(world, tmp_path / "cut", [StopAt(len(whole.loader) + 2)], kind=kind, memory=3).fit()
    assert Checkpoints(tmp_path / "cut" / "checkpoints").load()["step"] == len(whole.loader) + 2
    resumed = trainer(world, tmp_path / "cut", [StopAt(10**6)], kind=kind, memory=3).fit()
    assert resumed.drop(columns="seconds").equals(history.drop(columns="seconds"))


class Batches(IterableDataset):
    "Drawn items of an epoch's first batches."
    def __init__(self, loader): self.loader = loader

    def __iter__(self):
        for batch, _ in zip(self.loader, range(2)): yield batch.additional_infos["item_index"][-24:]


@pytest.mark.parametrize("kind", ["sampled", "sampled_v2", "mixed"])
def test_workers_and_ranks_draw_different_negatives(world, kind, monkeypatch):
    loader = TrainLoader(world, 128, Negatives(kind=kind, num_sample=24), seed=5)
    torch.manual_seed(0)
    epochs = [tuple(items.tolist()) for _ in range(2) for items in DataLoader(Batches(loader), batch_size=None, num_workers=2, multiprocessing_context="fork")]
    assert len(set(epochs)) == len(epochs) == 8
    own = next(iter(Batches(loader))).tolist()
    monkeypatch.setenv("RANK", "1")
    assert next(iter(Batches(TrainLoader(world, 128, Negatives(kind=kind, num_sample=24), seed=5)))).tolist() != own


@pytest.mark.parametrize("kind", KINDS)
def test_item_rows_are_positives_then_shared_then_hard(world, kind):
    loader, rows = TrainLoader(world, 128, Negatives(kind=kind, num_sample=24, num_hard=2)), torch.arange(0, 256, 2)
    infos, positives = loader.batch(rows).additional_infos, world.train.columns["item_index"][rows]
    assert torch.equal(infos["item_index"][:128], positives)
    hard = infos["item_index"][128 + (24 if kind != "in_batch" else 0):]
    users = world.train.columns["user_index"][rows]
    if "hard" not in kind: assert len(hard) == 0
    else: assert all(item in world.dislikes.to_lists()[users[row]] for (row, _), item in zip(infos["hard_neg_indices"].tolist(), hard.tolist()))


def test_a_pool_smaller_than_asked_is_refused(world):
    for kind, said in (("sampled", "left beside the batch"), ("sampled_v2", "leaves"), ("hard_v2", "leaves")):
        with pytest.raises(ValueError, match=f"num_sample is 301 .*{said}"): next(iter(TrainLoader(world, 8, Negatives(kind=kind, num_sample=301))))


def test_histories_refuse_a_memory():
    with pytest.raises(ValueError, match="memory is 2"): SequenceLoader(load_dataset("planted", users=20, items=100), negatives=Negatives(kind="sampled", num_sample=4, memory=2))


def test_the_lab_answers(tmp_path):
    small = {"datasets": "planted", "planted_users": 120, "planted_items": 300, "epochs": 1, "num_sample": 16, "batch_size": 256, "other_batch_size": 0, "other_temperature": 0.0, "save": "kept/tidy.parquet"}
    result = run_papermill(ROOT / "nbs" / "experiments" / "negatives_lab.ipynb", "out.ipynb", tmp_path, small)
    assert result.returncode == 0, tail(result)
    said = [output["data"]["text/markdown"] for output in outputs(tmp_path / "out.ipynb") if "text/markdown" in output.get("data", {})]
    assert len(said) == 1 and "leads on validation" in "".join(said[0]) and "of the ceiling" in "".join(said[0])
    assert sum("image/png" in output.get("data", {}) for output in outputs(tmp_path / "out.ipynb")) == 1
    tidy = pd.read_parquet(tmp_path / "kept" / "tidy.parquet")
    assert set(tidy["negatives"]) == {"in_batch", "in_batch + memory", "sampled", "sampled_v2", "hard", "hard_v2", "mixed", "full"} and len(tidy) == 20 * 8
    assert ((tidy["low"] <= tidy["test"]) & (tidy["test"] <= tidy["high"])).all() and tidy["test"].between(0, 1).all()
