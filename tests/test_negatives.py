"Negatives of every kind through a training: memory, resumption, workers, and the order of item rows."
from itertools import chain, repeat

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, outputs, run_papermill, tail
from torch.utils.data import DataLoader, IterableDataset

from recbench.core.config import ModelConfig
from recbench.data import (
    HardNegativeSampler,
    IdFeature,
    MatchLoader,
    Negatives,
    NegativeSampler,
    Schema,
    build_dataset,
    load_dataset,
)
from recbench.data.feed.negatives import popularity_weights
from recbench.data.feed.sequence_loader import SequenceLoader
from recbench.data.rows.features import with_embedding_dim
from recbench.data.rows.table import Jagged
from recbench.matching import ItemMemory
from recbench.models import create_model
from recbench.models.match_configs import match_config
from recbench.train import Trainer
from recbench.train.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("in_batch", "mixed", "sampled", "sampled_v2", "hard", "hard_v2")


@pytest.fixture(scope="module")
def world():
    return load_dataset("planted", users=150, items=300)


def trainer(world, folder=None, callbacks=(), **negatives):
    chosen = Negatives(num_sample=24, num_hard=2, **negatives)
    sides = {
        side: [feature.name for feature in world.features() if feature.side == side]
        for side in ("user", "item")
    }
    groups = [{"group_name": side, "feature_names": names} for side, names in sides.items()]
    config = ModelConfig(
        feature_groups=groups,
        losses=[{"softmax_cross_entropy": {}}],
        dssm={
            "user_tower": {"input": "user"},
            "item_tower": {"input": "item"},
            "output_dim": 8,
            "similarity": "COSINE",
            "temperature": 0.1,
            "in_batch_negative": chosen.kind in ("in_batch", "mixed"),
        },
    )
    torch.manual_seed(0)
    model = create_model(
        config,
        [feature.model_copy(update={"embedding_dim": 8}) for feature in world.features()],
        ["label"],
    )
    return Trainer(
        model,
        world,
        negatives=chosen,
        batch_size=128,
        epochs=2,
        progress=False,
        run_dir=folder,
        callbacks=callbacks,
    )


class StopAt:
    def __init__(self, step): self.step = step

    def on_step(self, trainer, step, loss):
        if step == self.step: raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_memory_adds_columns_that_the_loss_reads(world, kind):
    runs = {memory: trainer(world, kind=kind, memory=memory) for memory in (0, 3)}
    for run in runs.values(): run.model.train()
    losses = {
        memory: [run.train_step(batch)[0].item() for batch, _ in zip(run.loader, range(5))]
        for memory, run in runs.items()
    }
    assert losses[0][0] == losses[3][0] and losses[0][1] != losses[3][1]
    assert runs[0].memory is None and len(runs[3].memory.parts) == 3


@pytest.mark.parametrize("kind", ["in_batch", "hard_v2"])
def test_memory_in_chunks_is_the_same_loss(world, kind):
    one, other = (trainer(world, kind=kind, memory=4) for _ in range(2))
    other.model.similarity_cells = 0
    for run in (one, other): run.model.train()
    for first, second in zip(one.loader, other.loader):
        torch.testing.assert_close(
            one.train_step(first)[0], other.train_step(second)[0], rtol=1e-4, atol=1e-4
        )


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
        for batch, _ in zip(self.loader, range(2)): yield batch.candidates.items[-24:]


@pytest.mark.parametrize("kind", ["sampled", "sampled_v2", "mixed"])
def test_workers_and_ranks_draw_different_negatives(world, kind, monkeypatch):
    loader = MatchLoader(world, 128, Negatives(kind=kind, num_sample=24), seed=5)
    torch.manual_seed(0)
    epochs = [
        tuple(items.tolist())
        for _ in range(2)
        for items in DataLoader(
            Batches(loader), batch_size=None, num_workers=2, multiprocessing_context="fork"
        )
    ]
    assert len(set(epochs)) == len(epochs) == 8
    own = next(iter(Batches(loader))).tolist()
    monkeypatch.setenv("RANK", "1")
    assert (
        next(
            iter(Batches(MatchLoader(world, 128, Negatives(kind=kind, num_sample=24), seed=5)))
        ).tolist()
        != own
    )


@pytest.mark.parametrize("kind", KINDS)
def test_item_rows_are_positives_then_shared_then_hard(world, kind):
    loader, rows = MatchLoader(
        world, 128, Negatives(kind=kind, num_sample=24, num_hard=2)
    ), torch.arange(0, 256, 2)
    drawn, positives = loader.batch(rows).candidates, world.train.columns["item_index"][rows]
    assert torch.equal(drawn.items[:128], positives)
    hard = drawn.items[128 + (24 if kind != "in_batch" else 0) :]
    users = world.train.columns["user_index"][rows]
    if "hard" not in kind:
        assert len(hard) == 0
    else:
        assert all(
            item in world.dislikes.to_lists()[users[row]]
            for (row, _), item in zip(drawn.own_cells.tolist(), hard.tolist())
        )


def test_a_pool_smaller_than_asked_is_refused(world):
    for kind in ("sampled", "mixed", "hard"):
        with pytest.raises(ValueError, match="num_sample is 301 and .* items can be drawn"):
            MatchLoader(world, 8, Negatives(kind=kind, num_sample=301))


@pytest.fixture(scope="module")
def shop():
    "Users who take items by one law, popular ones often twice; as many hard items by the same law."
    rng, users, events, law = np.random.default_rng(0), 3000, 6, 1 / np.arange(1, 401)
    law /= law.sum()
    log = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": rng.choice(400, users * events, p=law),
            "timestamp": np.tile(np.arange(events), users),
        }
    )
    hard = pd.DataFrame(
        {"user_id": np.repeat(np.arange(users), 8), "item_id": rng.choice(400, users * 8, p=law)}
    )
    train, last = log[log["timestamp"] < events - 1], log[log["timestamp"] == events - 1]
    schema = Schema(
        features=[
            IdFeature(name="user_id", embedding_dim=4),
            IdFeature(name="item_id", side="item", embedding_dim=4),
        ]
    )
    return build_dataset(
        "shop",
        schema,
        train,
        last,
        last,
        pd.DataFrame({"user_id": np.arange(users)}),
        pd.DataFrame({"item_id": np.arange(400)}),
        protocol="leave-last",
        dislikes=hard,
    )


def learnt_shares(loader, steps=300):
    "Shares that a model of item biases alone learns through the loss of the match models."
    features, negatives, count = (
        [feature for feature in loader.dataset.features() if feature.name in ("user_id", "item_id")],
        loader.negatives,
        len(loader.dataset.items),
    )
    groups = [{"group_name": side, "feature_names": [f"{side}_id"]} for side in ("user", "item")]
    diagonal = negatives.layout in ("in_batch", "mixed")
    config = ModelConfig(
        feature_groups=groups,
        losses=[{"softmax_cross_entropy": {}}],
        dssm={
            "user_tower": {"input": "user"},
            "item_tower": {"input": "item"},
            "output_dim": 1,
            "in_batch_negative": diagonal,
        },
    )
    model, bias = create_model(config, features, ["label"]).train(), torch.nn.Parameter(
        torch.zeros(count)
    )
    optimizer, memory = torch.optim.Adam([bias], lr=0.1), (
        ItemMemory(negatives) if negatives.memory else None
    )

    def towers(batch):
        who = batch.candidates.alone or batch.candidates
        items = torch.arange(count) if who.target is not None else who.items
        rows = (
            len(who.target)
            if who.target is not None
            else batch.rows if who.target_lengths is None else int(who.target_lengths.sum())
        )
        return torch.ones(rows, 1), bias[items].unsqueeze(1), {}

    model.towers = towers
    for step, batch in zip(range(steps), chain.from_iterable(repeat(loader))):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        if memory: batch = memory.recall(batch)
        predictions = model.predict(batch)
        loss = model.loss(predictions, batch)["softmax_cross_entropy"]
        if memory: memory.keep(predictions["item_tower_emb"], batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return bias.detach().double().softmax(0)


def off_the_law(loader):
    "Learnt minus true share of the ten most popular items, and the KL divergence from the true law."
    law, learnt = loader.share, learnt_shares(loader)
    top = law.topk(10).indices
    return float(learnt[top].sum() - law[top].sum()), float(
        (law * (law.clamp(min=1e-300) / learnt).log()).sum()
    )


LAWS = [
    {"kind": "full"},
    *(
        {"kind": kind, "memory": memory}
        for kind in ("in_batch", "mixed", "sampled", "hard")
        for memory in (0, 2)
    ),
]


@pytest.mark.parametrize("loader", [MatchLoader, SequenceLoader])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: " ".join(map(str, law.values())))
def test_what_corrects_learns_the_true_law(shop, loader, law):
    share, divergence = off_the_law(
        loader(shop, 256 if loader is MatchLoader else 64, Negatives(num_sample=128, num_hard=3, **law))
    )
    assert abs(share) < 0.02 and divergence < 0.1


def test_what_does_not_correct_learns_another(shop):
    assert (
        off_the_law(MatchLoader(shop, 256, Negatives(kind="sampled", num_sample=128, log_q=False)))[0]
        < -0.3
    )
    assert (
        off_the_law(MatchLoader(shop, 256, Negatives(kind="hard", num_sample=128, log_q=False)))[0]
        < -0.3
    )
    assert (
        off_the_law(MatchLoader(shop, 256, Negatives(kind="sampled", num_sample=128, mask_known=True)))[
            0
        ]
        > 0.05
    )


def test_older_names_are_the_same_kinds(shop):
    for kind in ("sampled", "hard"):
        one, other = (
            next(iter(MatchLoader(shop, 64, Negatives(kind=name, num_sample=16)))).candidates
            for name in (kind, f"{kind}_v2")
        )
        for part in ("items", "log_q", "known", "own_cells"):
            mine, same = getattr(one, part), getattr(other, part)
            if mine is None or same is None:
                assert mine is same, part
            else:
                assert all(
                    map(torch.equal, *((x if isinstance(x, tuple) else (x,)) for x in (mine, same)))
                ), part


def test_a_draw_does_not_look_at_the_batch():
    one, other = NegativeSampler(popularity_weights(torch.arange(50)), 40, seed=3), NegativeSampler(
        popularity_weights(torch.arange(50)), 40, seed=3
    )
    for _ in range(20):
        (items, log_prob), (same, _) = one.sample(torch.arange(45)), other.sample(torch.arange(0))
        assert torch.equal(items, same) and torch.equal(
            log_prob, one.probabilities[items].log().float()
        )


def test_hard_items_are_drawn_as_sets():
    sampler = HardNegativeSampler(Jagged(torch.arange(5), torch.tensor([0]), torch.tensor([5])), 2)
    items, _ = sampler.sample(torch.zeros(20_000, dtype=torch.int64))
    pairs, times = torch.unique(items.view(-1, 2).sort(1).values, dim=0, return_counts=True)
    assert (
        pairs.tolist() == [[a, b] for a in range(5) for b in range(a + 1, 5)]
        and ((times / 20_000 - 0.1).abs() < 0.01).all()
    )


def test_the_lab_answers(tmp_path):
    small = {
        "datasets": "planted",
        "planted_users": 120,
        "planted_items": 300,
        "epochs": 1,
        "num_sample": 16,
        "batch_size": 256,
        "other_batch_size": 0,
        "other_temperature": 0.0,
        "save": "kept/tidy.parquet",
    }
    result = run_papermill(
        ROOT / "nbs" / "experiments" / "negatives_lab.ipynb", "out.ipynb", tmp_path, small
    )
    assert result.returncode == 0, tail(result)
    said = [
        output["data"]["text/markdown"]
        for output in outputs(tmp_path / "out.ipynb")
        if "text/markdown" in output.get("data", {})
    ]
    assert (
        len(said) == 1
        and "leads on validation" in "".join(said[0])
        and "of the ceiling" in "".join(said[0])
    )
    assert sum("image/png" in output.get("data", {}) for output in outputs(tmp_path / "out.ipynb")) == 1
    tidy = pd.read_parquet(tmp_path / "kept" / "tidy.parquet")
    assert (
        set(tidy["negatives"]) == {"in_batch", "in_batch + memory", "sampled", "hard", "mixed", "full"}
        and len(tidy) == 16 * 8
    )
    assert ((tidy["low"] <= tidy["test"]) & (tidy["test"] <= tidy["high"])).all() and tidy[
        "test"
    ].between(0, 1).all()


@pytest.mark.parametrize("name", ["SASRec", "HSTUMatch"])
@pytest.mark.parametrize("kind", ["in_batch", "mixed", "sampled", "hard", "full"])
def test_sequence_models_train_on_every_kind(world, name, kind):
    features = with_embedding_dim(tuple(world.features()), 8)
    config = match_config(
        name, world, features, in_batch_negative=kind in ("in_batch", "mixed"), layers=1, max_seq_len=10
    )
    torch.manual_seed(0)
    model = create_model(config, features, ["label"])
    history = Trainer(
        model,
        world,
        negatives=Negatives(kind=kind, num_sample=24, num_hard=2, memory=0 if kind == "full" else 2),
        batch_size=16,
        epochs=2,
        progress=False,
    ).fit()
    assert history["loss"].is_monotonic_decreasing and history["loss"].notna().all()
