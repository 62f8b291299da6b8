"""Two gloo processes against one: equal losses for every model of the zoo, and equal tables after it.

    python benchmarks/two_processes.py [--models DeepFM SASRec ...] [--steps 50] [--ranks 2]

Small planted worlds; batches of 64 rows, no dropout, no drawn capsule logits (both draw by rank).
For each model and layout of the tables (`table_wise`, `row_wise`, `planned` by TorchRec):

loss      largest difference of a step's loss
metrics   largest difference of a validation metric after the steps
weights   largest difference of a weight after the last step, tables and dense part together
ms        CPU milliseconds of a step on rank 0 / of one process

A line `shaken` is one process against itself, its first dense weights moved by 1e-7 of their size:
what rounding alone does to that model. `SASRec` has ReLU, whose gradient jumps where a number changes
its sign by rounding; `SASRec GELU` is the same model without that jump. MIND routes by softmax of 20
times the agreement, three times over. gauc counts pairs, of which rounding swaps the equal ones.
"""

import argparse
import time
from typing import Any

import torch
from torch import nn

from recbench.core.config import ModelConfig
from recbench.data.feed.class_loader import ClassLoader
from recbench.data.feed.negatives import Negatives
from recbench.data.feed.tree import category_tree
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.planted import planted, planted_clicks
from recbench.data.rows.features import with_embedding_dim
from recbench.data.sets.dataset import Dataset
from recbench.layers.capsule import CapsuleLayer
from recbench.layers.sharded_tables import whole
from recbench.models import match_config
from recbench.models.base import BaseModel, create_model
from recbench.models.recipes import Recipe
from recbench.models.usual import usual_model
from recbench.train import Trainer
from recbench.train.launch import local_ranks

MATCH = {
    "DSSM": "sampled", "DSSM in-batch": "in_batch", "DSSM hard": "hard", "DSSM mixed": "mixed",
    "DSSM full": "full", "DSSMV2": "sampled", "DAT": "full", "MIND": "sampled", "SASRec": "full",
    "SASRec GELU": "full", "ESASRec": "sampled", "HSTUMatch": "full",
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
    if "GELU" in kind: smooth(model)
    drawn = Negatives(kind=negatives, num_sample=33, mask_known=negatives != "full")
    return data, model, {"negatives": drawn, "valid_rows": "all"}


def trained(kind: str, sharding: str | None, steps: int, shaken: bool = False) -> dict[str, Any]:
    "Losses, metrics, weights and seconds of a few steps."
    data, model, settings = made(kind)
    if shaken: shake(model)
    losses = Losses(steps)
    size = {} if "loader" in settings else {"batch_size": 64}
    trainer = Trainer(
        model, data, steps=steps, seed=1, progress=False, callbacks=[losses], sharding=sharding,
        learning_rate=0.001, patience=steps, **size, **settings)
    trainer.fit()
    metrics = {name: value for name, value in trainer.history[-1].items() if name != "seconds"}
    return {"losses": losses.values, "metrics": metrics, "weights": losses.weights,
            "ms": 1000 * losses.seconds / max(1, len(losses.values) - 5)}


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    "Largest difference of two dictionaries of numbers or tensors."
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    both = [[torch.as_tensor(each[name]).double() for each in (one, other)] for name in one]
    pairs = [pair for pair in both if pair[0].numel()]
    return max(float((a - b).abs().nan_to_num().max()) for a, b in pairs)


def compared(kind: str, count: int, steps: int) -> list[dict[str, Any]]:
    "A row for each layout, and one for one process that was shaken."
    (one,), rows = local_ranks(1, trained, kind, None, steps), []
    for tables in ("table_wise", "row_wise", "planned", "shaken"):
        alone, sharding = tables == "shaken", None if tables in ("planned", "shaken") else tables
        found = local_ranks(1 if alone else count, trained, kind, sharding, steps, alone)
        losses = [max(abs(a - b) for a, b in zip(one["losses"], each["losses"], strict=True))
                  for each in found]
        rows.append({
            "model": kind, "tables": tables, "loss": max(losses),
            "metrics": furthest(one["metrics"], found[0]["metrics"]),
            "weights": furthest(one["weights"], found[0]["weights"]),
            "ms": "" if alone else f"{found[0]['ms']:.1f} / {one['ms']:.1f}"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[*MATCH, *RANK, *TASKS, *OTHERS])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    asked = parser.parse_args()
    print(f"{'model':19s} {'tables':11s} {'loss':>8s} {'metrics':>8s} {'weights':>8s}  "
          f"ms, {asked.ranks} / 1")
    for kind in asked.models:
        try: rows = compared(kind, asked.ranks, asked.steps)
        except RuntimeError as error:
            print(f"{kind:19s} failed: {str(error).strip().splitlines()[-1]}", flush=True)
            continue
        for row in rows:
            print(f"{row['model']:19s} {row['tables']:11s} {row['loss']:8.1e} {row['metrics']:8.1e} "
                  f"{row['weights']:8.1e}  {row['ms']}", flush=True)


if __name__ == "__main__": main()
