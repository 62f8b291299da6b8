"""ESMM's conversion rate of all impressions on planted worlds, beside towers trained on clicked rows.

    python benchmarks/esmm_planted.py [--seeds 0 1 2 3 4] [--users 1000] [--items 500] [--epochs 20]

A click in `planted_clicks` depends on how near an item is to the user's taste, and so does a purchase
after it; brand and price matter to the purchase only. So clicked rows are a selection: of all
impressions they hold the near ones, and a tower trained on them is asked about rows that look like none
it has seen. The selection is the world's own, no parameter was moved for this table.

tower    one task, conversion, trained and stopped (log loss) on clicked rows
shared   click and conversion on the same tables, conversion with weight 0 outside of clicked rows
ESMM     click, and click and conversion, over all rows; stopped by the log loss of both together

All have the same features, tables of width 16, towers 64-32 and the recipe of ranking models. The AUC
is that of the true conversion rates over ALL test impressions, clicked or not: expected correctly
ordered pairs, so that no label is drawn; the ceiling is the AUC of the true rates themselves. "closed"
is (model - tower) / (ceiling - tower). Another seed is another world; intervals are Student's t over
them.

Targets: ESMM minus tower above 0 with its interval, and at least half of the distance closed.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from _timing import verdict
from scipy.special import stdtrit

from recbench.core.config import ModelConfig
from recbench.data.published.planted import expected_auc, planted_clicks, planted_frames
from recbench.data.rows.features import with_embedding_dim
from recbench.data.sets.dataset import Dataset
from recbench.evaluate.ranking import predict_split
from recbench.models import create_model
from recbench.models.multi_task_model import MultiTaskModel
from recbench.models.recipes import RANKING
from recbench.train import Trainer

MONITORS = {"tower": "logloss_cvr", "shared": "logloss_cvr", "ESMM": "logloss_ctcvr"}


def make_model(kind: str, data: Dataset, seed: int) -> MultiTaskModel:
    "One of the three, with the seed's first weights."
    features = with_embedding_dim(tuple(data.features()), 16, 0.1)
    towers = [{"tower_name": name, "label_name": label, "losses": [{"binary_cross_entropy": {}}],
               "mlp": {"hidden_units": [64, 32]}}
              for name, label in (("ctr", "click"), ("cvr", "conversion"))]
    if kind == "tower": towers = towers[1:]
    if kind == "shared":
        towers[1] |= {"task_space_indicator_label": "click", "out_task_space_weight": 0.0}
    group = {"group_name": "all", "feature_names": [feature.name for feature in features]}
    key = "esmm" if kind == "ESMM" else "simple_multi_task"
    config = ModelConfig.from_dict({"feature_groups": [group], key: {"task_towers": towers}})
    torch.manual_seed(seed)
    return create_model(config, features, [tower["label_name"] for tower in towers])


def clicked_rows(data: Dataset) -> Dataset:
    "The same with clicked rows only in training and validation."
    kept = {split: data.split(split).columns["click"] > 0 for split in ("train", "valid")}
    return replace(data, **{split: data.split(split).take(rows.nonzero()[:, 0])
                            for split, rows in kept.items()})


def run(
    seed: int, users: int, items: int, epochs: int, kinds: Sequence[str] = tuple(MONITORS)
) -> dict[str, float]:
    "AUC over all test impressions of each model in one world, its CPU seconds, and the ceiling."
    data = planted_clicks(users, items, seed, max_history=0)
    rows = planted_frames(users, items, seed).impressions
    truth = rows.loc[rows["split"] == "test", "conversion_probability"].to_numpy()
    found = {}
    for kind in kinds:
        start = time.process_time()
        model, read = make_model(kind, data, seed), clicked_rows(data) if kind == "tower" else data
        Trainer(model, read, recipe=RANKING, monitor=MONITORS[kind], epochs=epochs, seed=seed,
                progress=False).fit()
        found[kind] = expected_auc(truth, predict_split(model, data, "test")["probs_cvr"])
        found[f"{kind} s"] = time.process_time() - start
    return found | {"ceiling": expected_auc(truth)}


def ends(values: pd.Series) -> tuple[float, float]:
    "95 % interval of the mean by Student's t; of one value the value itself."
    if len(values) < 2: return values.mean(), values.mean()
    reach = stdtrit(len(values) - 1, 0.975) * values.std() / len(values) ** 0.5
    return values.mean() - reach, values.mean() + reach


def interval(values: pd.Series) -> str:
    "Mean and interval in words."
    low, high = ends(values)
    return f"{values.mean():.4f} ({low:.4f} to {high:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for seed in asked.seeds:
        found[seed] = run(seed, asked.users, asked.items, asked.epochs)
        print(seed, {name: round(value, 4) for name, value in found[seed].items()}, flush=True)
    table = pd.DataFrame(found).T
    for kind in ("shared", "ESMM"):
        closed = (table[kind] - table["tower"]) / (table["ceiling"] - table["tower"])
        print(f"{kind} minus tower {interval(table[kind] - table['tower'])}, closed {interval(closed)}")
    gain, mean = table["ESMM"] - table["tower"], table.mean()
    verdict("ESMM minus tower, low end", ends(gain)[0], at_least=0.0, kind="AUC")
    closed = (mean["ESMM"] - mean["tower"]) / (mean["ceiling"] - mean["tower"])
    verdict("distance to the ceiling that ESMM closes", closed, at_least=0.5, kind="share")


if __name__ == "__main__":
    main()
