"""Test AUC and log loss of the ranking models on real clicks and ratings beside the best peer's: mean
and spread over seeds.

    python benchmarks/rank_accuracy.py [--datasets random temporal_user frappe] [--models ...] [--seeds
        0 1 2] [--threads 1] [--folder runs/rank_accuracy] [--records] [--stack DCNV2 FinalMLP]

`random` and `temporal_user` are MovieLens-100K, rating of 4 and 5 as 1, split at random or by each
user's time; models without history read ids and side features only, MultiTowerDIN also the user's
earlier ratings. `frappe` is the app log with its published split. Each model is trained as its recipe
for the data set says (`recbench.models.recipes`), chosen on validation rows of one or two of the
models; the epoch is chosen there too. A finished training leaves its test probabilities in the folder
and is not done again, so that what was broken off goes on; `--report` only prints what is there,
`--records` leaves a small record of each seed in benchmarks/results, and of the baselines: means,
logistic regression and trees, their settings chosen on validation rows. `--stack` adds an ensemble of
the named models, of one seed each: their log odds, with weights that the validation rows choose.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from _records import record_rows

from recbench.data import Dataset, load_dataset
from recbench.evaluate.platt import PlattScaled
from recbench.evaluate.ranking import RankEvaluation, evaluate_rows, resampled
from recbench.evaluate.row_baselines import fit_row_baselines
from recbench.evaluate.stacked import Stacked
from recbench.models import recipe_of, usual_model
from recbench.models.rank_configs import RANK_CONFIGS
from recbench.train import Trainer

DATASETS = ("random", "temporal_user", "frappe")
RECORDED = {"random": "movielens-100k at random", "temporal_user": "movielens-100k by each user's time"}
# best test AUC of a library for the same model and rows; frappe: BARS-CTR leaderboard, same protocol,
# other negatives in training
PEERS = {
    "random": {
        "WideAndDeep": 0.7883,
        "DeepFM": 0.7883,
        "xDeepFM": 0.7883,
        "DCNV2": 0.7880,
        "DLRM": 0.7836,
        "MaskNet": 0.7800,
        "WuKong": 0.7762,
    },
    "temporal_user": {
        "WideAndDeep": 0.7960,
        "DeepFM": 0.7977,
        "xDeepFM": 0.7948,
        "DCNV2": 0.7932,
        "DLRM": 0.7896,
        "MaskNet": 0.7844,
        "WuKong": 0.7876,
    },
    "frappe": {
        "WideAndDeep": 0.9841,
        "DeepFM": 0.9842,
        "DLRM": 0.9840,
        "DCNV1": 0.9839,
        "DCNV2": 0.9845,
        "xDeepFM": 0.9845,
        "MaskNet": 0.9837,
        "FinalMLP": 0.9861,
    },
}


@cache
def data_of(name: str, history: bool) -> Dataset:
    "A data set, with the users' earlier ratings or without."
    if name == "frappe": return load_dataset("frappe")
    kept = None if history else 0
    return load_dataset("movielens-100k", task="rank", split=name, max_history=kept)


def train(name: str, model_name: str, seed: int) -> tuple[RankEvaluation, RankEvaluation, str]:
    "Probabilities of the test and of the validation rows of one training, and how it ended."
    data = data_of(name, model_name == "MultiTowerDIN")
    recipe = recipe_of(model_name, data)
    model = usual_model(model_name, data, recipe, seed)
    trainer = Trainer(model, data, recipe=recipe, seed=seed, progress=False)
    trainer.fit()
    end = f"epoch {trainer.best_epoch} of {len(trainer.history)}"
    judged = PlattScaled(model, data) if recipe.platt else model
    found = evaluate_rows(judged, data, name=model_name)
    return found, evaluate_rows(judged, data, "valid"), end


def settings_of(name: str, model_name: str) -> dict:
    "What a training of it is done with, to know a kept one by."
    return recipe_of(model_name, "frappe" if name == "frappe" else "movielens-100k").to_dict()


def label_of(name: str, model_name: str) -> str:
    "What tables call it: the model, and how many members it has."
    members = settings_of(name, model_name)["architecture"].get("members", 1)
    return f"{model_name}, {members} members" if members > 1 else model_name


def write_record(file: Path, name: str, model_name: str, seed: int) -> None:
    "A small record of a finished training, for the page of results."
    found, valid = finished(file, settings_of(name, model_name))
    command = f"python benchmarks/rank_accuracy.py --datasets {name} --models {model_name}"
    recipe = str(recipe_of(model_name, "frappe" if name == "frappe" else "movielens-100k"))
    found = replace(found, name=label_of(name, model_name))
    with np.load(file) as kept: about = json.loads(str(kept["about"]))
    record_rows(RECORDED.get(name, name), found, seed, f"{command} --seeds {seed}", valid,
                about.get("cpu_seconds"), about.get("end", ""), recipe)


def record_baselines(name: str) -> None:
    "Fit the baselines and leave their records."
    data = data_of(name, False)
    for label in ("means", "logistic regression", "trees"):
        start = time.process_time()
        fitted = fit_row_baselines(data, lambda kind, label=label: kind == label)
        for model in fitted.values():
            seconds, valid = time.process_time() - start, evaluate_rows(model, data, "valid").values()
            command = f"python benchmarks/rank_accuracy.py --datasets {name} --models --records"
            record_rows(RECORDED.get(name, name), evaluate_rows(model, data, name=label), None, command,
                        valid, seconds, "settings chosen on validation rows")


def finished(file: Path, settings: dict) -> tuple[RankEvaluation, dict[str, float]] | None:
    "What a training with these settings left, if it did."
    if not file.is_file(): return None
    with np.load(file) as kept:
        about = json.loads(str(kept["about"]))
        if about["settings"] != settings: return None
        return (
            RankEvaluation(
                about["name"],
                about["protocol"],
                kept["probability"],
                kept["label"],
                kept["unit"],
                about["has_users"],
            ),
            about["valid"],
        )


def keep(
    file: Path, settings: dict, seconds: float, found: RankEvaluation, valid: RankEvaluation, end: str
) -> None:
    "Leave it for the next call."
    about = {
        "settings": settings,
        "cpu_seconds": seconds,
        "end": end,
        "name": found.name,
        "protocol": found.protocol,
        "has_users": found.has_users,
        "valid": valid.values(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".part").open("wb") as out:
        np.savez_compressed(
            out,
            about=json.dumps(about),
            probability=found.probability,
            label=found.label,
            unit=found.unit,
            valid=valid.probability,
        )
    file.with_suffix(".part").rename(file)


class Kept:
    "What a finished training says of the rows, in a model's place."

    def __init__(self, file: Path):
        if not file.is_file(): raise SystemExit(f"{file} is missing; name its model in --models too")
        with np.load(file) as kept:
            self.of = {"valid": kept["valid"], "test": kept["probability"]}
            self.seconds = json.loads(str(kept["about"]))["cpu_seconds"]

    def predict_rows(self, dataset: Dataset, split: str) -> np.ndarray: return self.of[split]


def stack(name: str, models: list[str], seed: int, folder: Path, write: bool) -> tuple:
    "Test and validation of an ensemble of finished trainings; its record."
    data = data_of(name, False)
    members = {one: Kept(folder / f"{name}-{one}-{seed}.npz") for one in models}
    both = Stacked(members, data)
    label = f"Stacked ({' and '.join(label_of(name, one) for one in models)})"
    found, valid = evaluate_rows(both, data, name=label), evaluate_rows(both, data, "valid").values()
    if write:
        shares = ", ".join(f"{one} {weight:.2f}" for one, weight in both.weights.items())
        named = " ".join(models)
        command = (f"python benchmarks/rank_accuracy.py --datasets {name} --models {named} --stack "
                   f"{named} --seeds {seed}")
        seconds = sum(one.seconds for one in members.values())
        record_rows(RECORDED.get(name, name), found, seed, command, valid, seconds,
                    f"an ensemble, weights of log odds {shares}")
    return found, valid


def shown(values: list[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else " (one seed)")


def report(runs: dict[tuple[str, str], list[tuple[RankEvaluation, dict[str, float]]]]) -> None:
    "The table, and the paired interval of the model with history."
    print(
        "\n| data | model | seeds | validation AUC | test AUC | test log loss | peer's AUC | "
        "difference |\n|---|---|---|---|---|---|---|---|"
    )
    for (name, model_name), found in runs.items():
        test, peer = [evaluation.values() for evaluation, _ in found], PEERS[name].get(model_name)
        auc, against = [values["auc"] for values in test], (
            ("", "")
            if peer is None
            else (f"{peer:.4f}", f"{mean(values['auc'] for values in test) - peer:+.4f}")
        )
        print(
            "|",
            " | ".join(
                [
                    name,
                    model_name,
                    str(len(found)),
                    shown([valid["auc"] for _, valid in found]),
                    shown(auc),
                    shown([values["logloss"] for values in test]),
                    *against,
                ]
            ),
            "|",
        )
    others = {
        model_name: found
        for (name, model_name), found in runs.items()
        if name == "temporal_user" and model_name != "MultiTowerDIN"
    }
    if others and ("temporal_user", "MultiTowerDIN") in runs:
        paired(
            runs["temporal_user", "MultiTowerDIN"],
            *max(
                others.items(),
                key=lambda one: mean(evaluation.values()["auc"] for evaluation, _ in one[1]),
            ),
        )


def paired(mine: list, best_name: str, best: list, draws: int = 1000) -> None:
    """Means over seeds, model with history minus the best of the others by test AUC, on the same draws
    of users.
    """
    drawn = resampled(
        [evaluation for evaluation, _ in (*mine, *best)], draws, seed=0
    )  # [runs, draws, metrics]
    difference = drawn[:len(mine)].mean(0) - drawn[len(mine):].mean(0)
    points = [
        np.mean([list(evaluation.values().values()) for evaluation, _ in part], 0)
        for part in (mine, best)
    ]
    for i, metric in enumerate(mine[0][0].values()):
        low, high = np.quantile(difference[:, i], [0.025, 0.975])
        print(
            f"temporal_user, MultiTowerDIN - {best_name}, {metric}: {points[0][i] - points[1][i]:+.4f} "
            f"[{low:+.4f}, {high:+.4f}]"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--models", nargs="*", default=list(RANK_CONFIGS), choices=list(RANK_CONFIGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/rank_accuracy"))
    parser.add_argument("--records", action="store_true", help="write records for the page of results")
    parser.add_argument("--stack", nargs="+", default=[], help="an ensemble of these models")
    parser.add_argument("--report", action="store_true", help="print what is there, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = {}
    for name in options.datasets:
        for model_name in options.models:
            if model_name == "MultiTowerDIN" and name != "temporal_user":
                continue  # there is no history to attend to
            for seed in options.seeds:
                file = options.folder / f"{name}-{model_name}-{seed}.npz"
                found = finished(file, settings_of(name, model_name))
                if not found and not options.report:
                    start = time.process_time()
                    trained = train(name, model_name, seed)
                    keep(file, settings_of(name, model_name), time.process_time() - start, *trained)
                    found = finished(file, settings_of(name, model_name))
                    print(
                        name,
                        model_name,
                        f"seed {seed}",
                        *(f"{metric} {value:.4f}" for metric, value in found[0].values().items()),
                        flush=True,
                    )
                if found: runs.setdefault((name, model_name), []).append(found)
                if found and options.records: write_record(file, name, model_name, seed)
        for seed in options.seeds if options.stack else ():
            found = stack(name, options.stack, seed, options.folder, options.records)
            runs.setdefault((name, found[0].name), []).append(found)
        if options.records and not options.report: record_baselines(name)
    report(runs)


if __name__ == "__main__":
    main()
