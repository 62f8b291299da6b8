"""Two gloo processes against one: equal losses for every model of the zoo, and equal tables after it.

    python benchmarks/two_processes.py [--models DeepFM SASRec ...] [--steps 50] [--ranks 2]
    python benchmarks/two_processes.py --speed [--rounds 2] [--batch 8192]

Small planted worlds; batches of 64 rows, no dropout, no drawn capsule logits (both draw by rank).
For each model and layout of the tables (`table_wise`, `row_wise`, `planned` by TorchRec):

loss      largest difference of a step's loss
judged    largest difference of a validation metric of the same weights: those that the ranks end with,
          judged by the ranks, and gathered and judged by one process
metrics   largest difference of a validation metric after the steps, each with its own weights
weights   largest difference of a weight after the last step, tables and dense part together
ms        CPU milliseconds of a step on rank 0 / of one process

A line `shaken` is one process against itself, its first dense weights moved by 1e-7 of their size:
what rounding alone does to that model. A line `turned` is one process against itself with the rows of
each batch in the opposite order: the same sums, added up the other way round; only ranking models have
it. `SASRec` has ReLU, whose gradient jumps where a number changes its sign by rounding; `SASRec GELU`
is the same model without that jump. MIND routes by softmax of 20 times the agreement, three times over,
which makes a choice of a rounding; `MIND soft` routes by the agreement itself, without ReLU.
gauc counts pairs, of which rounding swaps the equal ones.

`--speed`: DLRM, 26 tables of 10^7 rows in all, width 16, 13 numbers, MLP 256-128-64, one thread a
process; one process and two ranks take turns. The best round of each: CPU milliseconds of a step
(batches and validation apart), wall, bytes that a rank sends in a step, peak memory, the share of it
above what the imports and the data set take. On two free cores a step takes a rank's CPU time; on a
machine that others use wall says nothing, so its load stands beside it.
Targets: 1.5 times the samples of one process, .6 of its peak memory.
"""

import argparse
import os
import resource
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import verdict
from torch import nn

from recbench.core.config import ModelConfig
from recbench.data.feed.class_loader import ClassLoader
from recbench.data.feed.loader import RankLoader
from recbench.data.feed.negatives import Negatives
from recbench.data.feed.tree import category_tree
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.planted import planted, planted_clicks
from recbench.data.rows.features import IdFeature, RawFeature, Schema, with_embedding_dim
from recbench.data.sets.dataset import Dataset, build_dataset
from recbench.layers.capsule import CapsuleLayer
from recbench.layers.sharded_tables import whole
from recbench.models import match_config
from recbench.models.base import BaseModel, create_model
from recbench.models.rank_model import RankModel
from recbench.models.recipes import Recipe
from recbench.models.usual import usual_model
from recbench.train import Trainer
from recbench.train.launch import local_ranks
from recbench.train.traffic import Traffic

MATCH = {
    "DSSM": "sampled", "DSSM in-batch": "in_batch", "DSSM hard": "hard", "DSSM mixed": "mixed",
    "DSSM full": "full", "DSSMV2": "sampled", "DAT": "full", "MIND": "sampled", "MIND soft": "sampled",
    "SASRec": "full", "SASRec GELU": "full", "ESASRec": "sampled", "HSTUMatch": "full",
}
RANK = ("WideAndDeep", "DeepFM", "MultiTower", "MultiTowerDIN", "DLRM", "MaskNet", "DCNV1", "DCNV2",
        "xDeepFM", "WuKong", "FinalMLP")
TASKS = ("SimpleMultiTask", "MMoE", "PLE", "DBMTL", "ESMM", "AITM")


OTHERS: dict[str, dict[str, Any]] = {
    "CMBF": {
        "feature_groups": [{"group_name": "image", "feature_names": ["log_price"]},
                           {"group_name": "general",
                            "feature_names": ["user_id", "item_id", "category"]},
                           {"group_name": "text", "feature_names": ["history"]}],
        "cmbf": {"config": {"text_head_size": 8, "text_multi_head_num": 2, "image_cross_head_size": 4,
                            "text_cross_head_size": 8, "multi_head_num": 2},
                 "final": {"hidden_units": [32]}},
        "losses": [{"binary_cross_entropy": {}}], "metrics": [{"auc": {}}]},
    "DropoutNet": {
        "feature_groups": [{"group_name": "user_content", "feature_names": ["age_band", "country"]},
                           {"group_name": "user_preference", "feature_names": ["user_id"]},
                           {"group_name": "item_content", "feature_names": ["category", "brand"]},
                           {"group_name": "item_preference", "feature_names": ["item_id"]}],
        "dropout_net": {"user_tower": {"hidden_units": [16]}, "item_tower": {"hidden_units": [16]},
                        "user_dropout_rate": 0.0, "item_dropout_rate": 0.0},
        "losses": [{"binary_cross_entropy": {}}], "metrics": [{"auc": {}}]},
    "PEPNet": {
        "feature_groups": [
            {"group_name": "all", "feature_names": ["user_id", "item_id", "category"]},
            {"group_name": "domain", "feature_names": ["country"]},
            {"group_name": "uia", "feature_names": ["age_band", "brand"]}],
        "pepnet": {"ppnet_hidden_units": [32, 16], "task_towers": [
            {"tower_name": name, "label_name": name, "losses": [{"binary_cross_entropy": {}}],
             "metrics": [{"auc": {}}]} for name in ("click", "conversion")]}},
    "RocketLaunching": {
        "feature_groups": [
            {"group_name": "all", "feature_names": ["user_id", "item_id", "category", "brand"]}],
        "rocket_launching": {
            "booster_mlp": {"hidden_units": [32, 16]}, "light_mlp": {"hidden_units": [16]},
            "feature_based_distillation": True, "feature_distillation_function": "EUCLID"},
        "losses": [{"binary_cross_entropy": {}}], "metrics": [{"auc": {}}]},
    "CoMetricLearningI2I": {
        "feature_groups": [{"group_name": "item", "feature_names": ["item_id", "category"]},
                           {"group_name": "more", "feature_names": ["brand", "log_price"]}],
        "metric_learning": {"input": "item", "highway": [{"input": "more", "emb_size": 8}],
                            "mlp": {"hidden_units": [32]}, "output_dim": 16, "info_nce_loss": {}}},
    "TDM": {
        "feature_groups": [{"group_name": "node", "feature_names": ["tree_level", "category"]},
                           {"group_name": "seq", "feature_names": ["item_id", "history"],
                            "group_type": "SEQUENCE"}],
        "tdm": {"newest_first": True, "final": {"hidden_units": [8]},
                "multiwindow_din": {"windows_len": [1, 3], "attn_mlp": {"hidden_units": [4]}}},
        "losses": [{"binary_cross_entropy": {}}]},
}


class Losses:
    "The loss of every step, the CPU seconds they took, and the weights after the last one."

    def __init__(self, steps: int):
        self.values, self.began, self.seconds = [], 0.0, 0.0
        self.steps, self.weights = steps, {}

    def on_step(self, trainer, step, loss):
        "Keep it; the clock starts behind the first five steps."
        self.values.append(float(loss))
        if step == 5: self.began = time.process_time()
        self.seconds = time.process_time() - self.began
        if step < self.steps: return
        state = trainer.model.state_dict()
        self.weights = {name: whole(value).clone() for name, value in state.items()}


def still(model: BaseModel) -> BaseModel:
    "The model without what each rank draws for itself."
    for module in model.modules():
        if isinstance(module, nn.Dropout): module.p = 0.0
        if hasattr(module, "dropout_ratio"): module.dropout_ratio = 0.0
        if isinstance(module, CapsuleLayer):
            module.eval()
            module.train = lambda mode=True, own=module: own
    return model


def shake(model: BaseModel) -> None:
    "Move the dense weights by a ten-millionth of their size."
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "tables" not in name: weight.mul_(1 + 1e-7 * torch.randn(weight.shape, generator=draw))


def smooth(model: BaseModel) -> None:
    "GELU in the place of each ReLU."
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU): setattr(module, name, nn.GELU())


def soften(model: BaseModel) -> None:
    "Routing by the agreement itself, not by 20 times it."
    for module in model.modules():
        if isinstance(module, CapsuleLayer): module.scale = 1.0


def other(kind: str) -> tuple[Dataset, BaseModel, dict[str, Any]]:
    "Data, model and settings of a model that no function configures."
    if kind in ("TDM", "CoMetricLearningI2I"): data = planted(users=200, items=120)
    else: data = planted_clicks(users=200, items=120, max_history=10)
    torch.manual_seed(0)
    config = ModelConfig.from_dict(OTHERS[kind])
    features = with_embedding_dim(tuple(data.features()), 16, 0.1)
    if kind == "TDM":
        tree = category_tree(data.items.singles[:, -1], 3)
        features = tree_features(data.features(), "item_id", tree)
        return data, still(create_model(config, features, ["label"], tree=tree)), {}
    if kind == "CoMetricLearningI2I":
        model = create_model(config, features, ["user_index"])
        return data, still(model), {"loader": ClassLoader(data, 15, 4, seed=1)}
    labels = ["click", "conversion"] if kind == "PEPNet" else [data.schema.label]
    return data, still(create_model(config, features, labels)), {}


def made(kind: str) -> tuple[Dataset, BaseModel, dict[str, Any]]:
    "Data, model and settings of a row of the table."
    if kind in OTHERS: return other(kind)
    if kind not in MATCH:
        data = planted_clicks(users=200, items=120, max_history=10)
        recipe = Recipe(embedding_dim=16)
        return data, still(usual_model(kind, data, recipe, hidden_units=(32, 16))), {}
    data, name, negatives = planted(users=200, items=120), kind.split()[0], MATCH[kind]
    torch.manual_seed(0)
    config = match_config(
        name, data, hidden_units=(32,), output_dim=16, share_embedding=name != "DSSM",
        in_batch_negative=negatives in ("in_batch", "mixed"))
    model = still(create_model(config, data.features(), []))
    if "GELU" in kind or "soft" in kind: smooth(model)
    if "soft" in kind: soften(model)
    drawn = Negatives(kind=negatives, num_sample=33, mask_known=negatives != "full")
    return data, model, {"negatives": drawn, "valid_rows": "all"}


class Turned(RankLoader):
    "Batches of the same rows, each from its last to its first."

    def _parts(self, order: torch.Tensor) -> list[torch.Tensor]:
        return [rows.flip(0) for rows in super()._parts(order)]


def trainer_of(kind: str, sharding: str | None, steps: int, change: str = "", **more: Any) -> Trainer:
    "A trainer of a row of the table; `change`: shaken or turned, or nothing."
    data, model, settings = made(kind)
    if change == "shaken": shake(model)
    if change == "turned" and isinstance(model, RankModel): settings["loader"] = Turned(data, 64, 1)
    size = {} if "loader" in settings else {"batch_size": 64}
    return Trainer(
        model, data, steps=steps, seed=1, progress=False, sharding=sharding, learning_rate=0.001,
        patience=steps, **size, **settings, **more)


def trained(kind: str, sharding: str | None, steps: int, change: str = "") -> dict[str, Any]:
    "Losses, metrics, weights and seconds of a few steps."
    losses = Losses(steps)
    trainer = trainer_of(kind, sharding, steps, change, callbacks=[losses])
    trainer.fit()
    metrics = {name: value for name, value in trainer.history[-1].items() if name != "seconds"}
    return {"losses": losses.values, "metrics": metrics, "weights": losses.weights,
            "ms": 1000 * losses.seconds / max(1, len(losses.values) - 5)}


def judged(kind: str, weights: dict[str, torch.Tensor]) -> dict[str, float]:
    "Metrics of given weights."
    trainer = trainer_of(kind, None, 1)
    trainer.model.load_state_dict(weights)
    return trainer.validate()


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    "Largest difference of two dictionaries of numbers or tensors."
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    if not one: return 0.0
    both = [[torch.as_tensor(each[name]).double() for each in (one, other)] for name in one]
    pairs = [pair for pair in both if pair[0].numel()]
    return max(float((a - b).abs().nan_to_num().max()) for a, b in pairs)


def compared(kind: str, count: int, steps: int) -> list[dict[str, Any]]:
    "A row for each layout, and two for one process against itself, shaken and turned."
    (one,), rows = local_ranks(1, trained, kind, None, steps), []
    for tables in ("table_wise", "row_wise", "planned", "shaken", "turned"):
        alone = tables in ("shaken", "turned")
        sharding = tables if tables in ("table_wise", "row_wise") else None
        found = local_ranks(1 if alone else count, trained, kind, sharding, steps, tables)
        (again,) = local_ranks(1, judged, kind, found[0]["weights"])
        losses = [max(abs(a - b) for a, b in zip(one["losses"], each["losses"], strict=True))
                  for each in found]
        rows.append({
            "model": kind, "tables": tables, "loss": max(losses),
            "judged": furthest(again, {name: found[0]["metrics"][name] for name in again}),
            "metrics": furthest(one["metrics"], found[0]["metrics"]),
            "weights": furthest(one["weights"], found[0]["weights"]),
            "ms": "" if alone else f"{found[0]['ms']:.1f} / {one['ms']:.1f}"})
    return rows


SIDES, FIELDS, NUMBERS, WIDTH, HIDDEN = ("user", "item"), 13, 13, 16, [256, 128, 64]
ROWS = 10**7 // (2 * FIELDS) + 1          # of a table


def clicks_of_ids(rows: int = 100_000) -> Dataset:
    "Clicks on random items of random users, with 13 ids a side, spread evenly over their tables."
    draw = np.random.default_rng(0)
    names = {side: [f"{side}_{i}" for i in range(FIELDS)] for side in SIDES}
    numbers = [RawFeature(name=f"x{i}", side="user") for i in range(NUMBERS)]
    ids = [IdFeature(name=name, side=side, embedding_dim=WIDTH, num_buckets=ROWS)
           for side in SIDES for name in names[side]]
    frames = {side: pd.DataFrame({
        f"{side}_id": np.arange(rows),
        **{name: draw.integers(ROWS, size=rows) for name in names[side]}}) for side in SIDES}
    for one in numbers: frames["user"][one.name] = draw.random(rows, dtype=np.float32)
    events = pd.DataFrame({
        **{f"{side}_id": draw.integers(rows, size=rows) for side in SIDES},
        "timestamp": np.arange(rows), "label": draw.integers(2, size=rows)})
    return build_dataset(
        "26 ids and 13 numbers", Schema(features=(*ids, *numbers), label="label"), events, None,
        events[:64], frames["user"], frames["item"], protocol="none", max_history=0, max_recent=0)


def large_model(data: Dataset) -> BaseModel:
    "DLRM, whose tables have 10^7 rows in all."
    sparse, dense = [[one for one in data.features() if isinstance(one, kind)]
                     for kind in (IdFeature, RawFeature)]
    top, names = {"hidden_units": HIDDEN}, lambda features: [one.name for one in features]
    config = ModelConfig.from_dict({
        "feature_groups": [{"group_name": "sparse", "feature_names": names(sparse)},
                           {"group_name": "dense", "feature_names": names(dense)}],
        "dlrm": {"dense_mlp": {"hidden_units": [*HIDDEN, WIDTH]}, "arch_with_sparse": False,
                 "final": top},
        "losses": [{"binary_cross_entropy": {}}]})
    torch.manual_seed(0)
    return create_model(config, [*sparse, *dense], ["label"])


class Meter:
    "CPU and wall seconds and bytes of the steps behind the fifth."

    def __init__(self, steps: int): self.steps, self.traffic, self.marks = steps, Traffic(), []

    def on_start(self, trainer):
        "Count what DistributedDataParallel sends too."
        if trainer.world.size > 1: self.traffic.watch(trainer.wrapper)

    def on_step(self, trainer, step, loss):
        "Keep the clocks of two steps."
        if step not in (5, self.steps): return
        sent = sum(self.traffic.bytes.values())
        self.marks.append((time.process_time(), time.perf_counter(), sent))


def peak() -> float:
    "Most memory of this process so far, in MB; that of its parent at the fork included."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(data: Dataset, sharding: str | None, steps: int, batch: int) -> dict[str, float]:
    "What a rank spends on a step of the large model."
    start, meter = peak(), Meter(steps)
    trainer = Trainer(
        large_model(data), data, batch_size=batch, steps=steps, learning_rate=0.001, seed=1,
        table_learning_rate=0.02, progress=False, sharding=sharding, callbacks=[meter])
    with meter.traffic: trainer.fit()
    first, last = meter.marks
    cpu, wall, sent = [(b - a) / (steps - 5) for a, b in zip(first, last)]
    return {"cpu": 1000 * cpu, "wall": 1000 * wall, "MB sent": sent / 1e6, "peak": peak(),
            "above": peak() - start, "loss": trainer.history[-1]["loss"]}


ALONE, LAYOUTS = "one process", ("table_wise", "row_wise", "planned")


def measured_round(data: Dataset, kind: str, ranks: int, steps: int, batch: int) -> dict[str, float]:
    "The worst rank's numbers of one training."
    sharding = kind if kind in ("table_wise", "row_wise") else None
    found = local_ranks(1 if kind == ALONE else ranks, measured, data, sharding, steps, batch)
    print(f"{kind:11s} load {os.getloadavg()[0]:.1f}  " +
          " ".join(f"{one['cpu']:.0f}/{one['wall']:.0f}" for one in found) +
          " ms CPU/wall of a step", flush=True)
    return {name: max(rank[name] for rank in found) for name in found[0]}


def speed(ranks: int, steps: int, batch: int, rounds: int) -> None:
    "Two ranks against one process; every other round runs backwards. The fastest layout must pass."
    data, kinds = clicks_of_ids(), (ALONE, *LAYOUTS)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for turn in range(rounds):
        for kind in kinds[::-1 if turn % 2 else 1]:
            found[kind].append(measured_round(data, kind, ranks, steps, batch))
    best = {kind: {name: min(one[name] for one in each) for name in each[0]}
            for kind, each in found.items()}
    print(pd.DataFrame(best).T.round(4).to_string())
    one = best.pop(ALONE)
    for name in ("cpu", "wall"):
        print(f"samples a second of {name} time, times one process: " +
              ", ".join(f"{kind} {one[name] / each[name]:.2f}" for kind, each in best.items()))
    fastest = min(best, key=lambda kind: best[kind]["cpu"])
    passed = [verdict(f"samples a CPU second of a rank, {fastest}", one["cpu"] / best[fastest]["cpu"],
                      at_least=1.5)]
    for kind, each in best.items():
        passed += [
            verdict(f"peak memory of a rank, {kind}", each["peak"] / one["peak"], at_most=0.6),
            verdict(f"loss, {kind}", abs(each["loss"] - one["loss"]), at_most=1e-5, kind="difference")]
        print(f"{kind}: {each['above'] / one['above']:.2f} of its memory above imports and data, which "
              f"take {each['peak'] - each['above']:.0f} of a rank's {each['peak']:.0f} MB")
    sys.exit(0 if all(passed) else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[*MATCH, *RANK, *TASKS, *OTHERS])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--speed", action="store_true", help="of DLRM with 10^7 rows, and memory")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8192)
    asked = parser.parse_args()
    if asked.speed: speed(asked.ranks, min(asked.steps, 25), asked.batch, asked.rounds)
    print(f"{'model':19s} {'tables':11s} {'loss':>8s} {'judged':>8s} {'metrics':>8s} {'weights':>8s}  "
          f"ms, {asked.ranks} / 1")
    for kind in asked.models:
        try: rows = compared(kind, asked.ranks, asked.steps)
        except RuntimeError as error:
            print(f"{kind:19s} failed: {str(error).strip().splitlines()[-1]}", flush=True)
            continue
        for row in rows:
            print(f"{row['model']:19s} {row['tables']:11s} {row['loss']:8.1e} {row['judged']:8.1e} "
                  f"{row['metrics']:8.1e} {row['weights']:8.1e}  {row['ms']}", flush=True)


if __name__ == "__main__": main()
