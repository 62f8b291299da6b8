"""Test AUC, grouped AUC and log loss of the ranking models on real clicks and ratings: mean and spread over seeds.

    python benchmarks/rank_accuracy.py [--datasets random temporal_user frappe] [--models ...] [--seeds 0 1 2] [--threads 1]

`random` and `temporal_user` are MovieLens-100K, rating of 4 and 5 as 1, split at random or by each user's time; models
without history read ids and side features only, MultiTowerDIN also the user's earlier ratings. `frappe` is the app log with
its published split. Sizes are those of `rank_config`, settings those of the trainer; the epoch is chosen on the validation
rows.
"""
import argparse
from statistics import mean, stdev

import torch

from recbench.data import load_dataset
from recbench.evaluate.ranking import evaluate_rows
from recbench.models import create_model
from recbench.models.rank_configs import RANK_CONFIGS, rank_config
from recbench.train import Trainer


def run(name: str, model_name: str, seed: int) -> dict[str, float]:
    "Test metrics of one training."
    with_history = model_name == "MultiTowerDIN"
    data = load_dataset("frappe") if name == "frappe" else load_dataset("movielens-100k", task="rank", split=name, max_history=50 if with_history else 0)
    torch.manual_seed(seed)
    model = create_model(rank_config(model_name, data.features()), data.features(), [data.schema.label])
    Trainer(model, data, seed=seed, progress=False).fit()
    return evaluate_rows(model, data).values()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["random", "temporal_user", "frappe"], choices=["random", "temporal_user", "frappe"])
    parser.add_argument("--models", nargs="+", default=list(RANK_CONFIGS), choices=list(RANK_CONFIGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.datasets:
        for model_name in options.models:
            if model_name == "MultiTowerDIN" and name != "temporal_user": continue          # there is no history to attend to
            found = [run(name, model_name, seed) for seed in options.seeds]
            columns = {metric: [one[metric] for one in found] for metric in found[0]}
            print(f"{name:14s} {model_name:14s}", *(f"{metric} {mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "") for metric, values in columns.items()), flush=True)


if __name__ == "__main__":
    main()
