"""Two gloo processes against one: equal losses for every model of the zoo, and equal tables after it.

    python benchmarks/two_processes.py [--models DeepFM SASRec ...] [--steps 50] [--ranks 2]

Small planted worlds; batches of 64 rows, no dropout, no drawn capsule logits (both draw by rank).
For each model and layout of the tables (`table_wise`, `row_wise`, `planned` by TorchRec):

loss      largest difference of a step's loss
metrics   largest difference of a validation metric after the steps
weights   largest difference of a weight, tables and dense part together
ms        CPU milliseconds of a step on rank 0 / of one process
"""

import argparse
import time
from typing import Any

import torch
from torch import nn

from recbench.data.feed.negatives import Negatives
from recbench.data.published.planted import planted, planted_clicks
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
    "HSTUMatch": "full",
}
RANK = ("WideAndDeep", "DeepFM", "MultiTower", "MultiTowerDIN", "DLRM", "MaskNet", "DCNV1", "DCNV2",
        "xDeepFM", "WuKong")
TASKS = ("SimpleMultiTask", "MMoE", "PLE", "DBMTL", "ESMM", "AITM")


class Losses:
    "The loss of every step, and the CPU seconds they took."

    def __init__(self): self.values, self.began, self.seconds = [], 0.0, 0.0

    def on_step(self, trainer, step, loss):
        "Keep it; the clock starts behind the first five steps."
        self.values.append(float(loss))
        if step == 5: self.began = time.process_time()
        self.seconds = time.process_time() - self.began


def still(model: BaseModel) -> BaseModel:
    "The model without what each rank draws for itself."
    for module in model.modules():
        if isinstance(module, nn.Dropout): module.p = 0.0
        if hasattr(module, "dropout_ratio"): module.dropout_ratio = 0.0
        if isinstance(module, CapsuleLayer):
            module.eval()
            module.train = lambda mode=True, own=module: own
    return model


def made(kind: str) -> tuple[Dataset, BaseModel, dict[str, Any]]:
    "Data, model and settings of a row of the table."
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
    drawn = Negatives(kind=negatives, num_sample=33, mask_known=negatives != "full")
    return data, model, {"negatives": drawn, "valid_rows": "all"}


def trained(kind: str, sharding: str | None, steps: int) -> dict[str, Any]:
    "Losses, metrics, weights and seconds of a few steps."
    data, model, settings = made(kind)
    losses = Losses()
    trainer = Trainer(
        model, data, batch_size=64, steps=steps, seed=1, progress=False, callbacks=[losses],
        sharding=sharding, **settings)
    trainer.fit()
    weights = {name: whole(value).clone() for name, value in model.state_dict().items()}
    metrics = {name: value for name, value in trainer.history[-1].items() if name != "seconds"}
    return {"losses": losses.values, "metrics": metrics, "weights": weights,
            "ms": 1000 * losses.seconds / max(1, len(losses.values) - 5)}


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    "Largest difference of two dictionaries of numbers or tensors."
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    both = [[torch.as_tensor(each[name]).double() for each in (one, other)] for name in one]
    pairs = [pair for pair in both if pair[0].numel()]
    return max(float((a - b).abs().nan_to_num().max()) for a, b in pairs)


def compared(kind: str, count: int, steps: int) -> list[dict[str, Any]]:
    "A row for each layout."
    (one,), rows = local_ranks(1, trained, kind, None, steps), []
    for sharding in ("table_wise", "row_wise", None):
        found = local_ranks(count, trained, kind, sharding, steps)
        losses = [max(abs(a - b) for a, b in zip(one["losses"], each["losses"], strict=True))
                  for each in found]
        rows.append({
            "model": kind, "tables": sharding or "planned", "loss": max(losses),
            "metrics": furthest(one["metrics"], found[0]["metrics"]),
            "weights": furthest(one["weights"], found[0]["weights"]),
            "ms": f"{found[0]['ms']:.1f} / {one['ms']:.1f}"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[*MATCH, *RANK, *TASKS])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    asked = parser.parse_args()
    print(f"{'model':16s} {'tables':11s} {'loss':>8s} {'metrics':>8s} {'weights':>8s}  "
          f"ms, {asked.ranks} / 1")
    for kind in asked.models:
        try: rows = compared(kind, asked.ranks, asked.steps)
        except Exception as error:
            print(f"{kind:16s} failed: {str(error).strip().splitlines()[-1]}", flush=True)
            continue
        for row in rows:
            print(f"{row['model']:16s} {row['tables']:11s} {row['loss']:8.1e} {row['metrics']:8.1e} "
                  f"{row['weights']:8.1e}  {row['ms']}", flush=True)


if __name__ == "__main__": main()
