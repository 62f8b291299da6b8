"""Test AUC of the models of several tasks on census income beside the same model of one task, gradient
boosting and logistic regression: mean and spread over seeds, paired intervals.

    python benchmarks/task_accuracy.py [--models ...] [--seeds 0 1 2] [--threads 1] [--folder
        runs/task_accuracy]

Income and marriage of 99,762 people, 60 : 20 : 20 at random. Each model is trained as its recipe for
the data set says (`recbench.models.recipes`), which was chosen on the validation rows; so is the epoch.
"<model> alone" has the same layers for one label, a training for each. Boosting and logistic regression
are those of `fit_row_baselines`, chosen on validation rows, and read the same features. ESMM has no row
here: it multiplies the probability of a label by that of one that needs it, and marriage needs none.
A finished training leaves its test probabilities in the folder and is not done again; `--report` only
prints what is there.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

from recbench.data import load_dataset
from recbench.data.sets.dataset import Dataset
from recbench.evaluate.ranking import RankEvaluation, evaluate_rows, resampled
from recbench.evaluate.row_baselines import fit_row_baselines
from recbench.models import recipe_of, usual_model
from recbench.models.task_configs import TASK_CONFIGS
from recbench.train import Trainer

LABELS = ("income", "marital")
MODELS = [name for name in TASK_CONFIGS if name != "ESMM"]
ALONE = [f"{name} alone" for name in MODELS if name != "AITM"]   # AITM has at least two tasks
BASELINES = {"boosting": "trees", "logistic regression": "logistic regression"}
Found = dict[str, tuple[RankEvaluation, dict[str, float]]] # by label: test, validation


def trained(name: str, seed: int, data: Dataset, labels: tuple[str, ...]) -> Found:
    "Test probabilities and validation metrics of one training, for each of its labels."
    model = usual_model(name, data, seed=seed, labels=labels)
    Trainer(model, data, recipe=recipe_of(name, data), seed=seed, progress=False).fit()
    return {
        label: (evaluate_rows(model, data, label=label),
                evaluate_rows(model, data, "valid", label=label).values())
        for label in labels
    }


def fitted(name: str, data: Dataset) -> Found:
    "The same of a baseline."
    found = {}
    for label in LABELS:
        model = fit_row_baselines(data, lambda kind: kind == BASELINES[name], label)[BASELINES[name]]
        found[label] = (evaluate_rows(model, data, label=label),
                        evaluate_rows(model, data, "valid", label=label).values())
    return found


def work(name: str, seed: int, data: Dataset) -> Found:
    "Train or fit what a row of the table is about."
    if name in BASELINES: return fitted(name, data)
    own = name.removesuffix(" alone")
    if own == name: return trained(name, seed, data, LABELS)
    return {label: trained(own, seed, data, (label,))[label] for label in LABELS}


def settings_of(name: str) -> dict:
    "What a training of it is done with, to know a kept one by."
    if name in BASELINES: return {}
    return recipe_of(name.removesuffix(" alone"), "census-income").to_dict()


def kept(file: Path, settings: dict) -> Found | None:
    "What a training with these settings left, if it did."
    if not file.is_file(): return None
    with np.load(file) as arrays:
        about = json.loads(str(arrays["about"]))
        if about["settings"] != settings: return None
        return {
            label: (RankEvaluation(file.stem, about["protocol"], arrays[f"{label}_probability"],
                                   arrays[f"{label}_label"], np.arange(len(arrays[f"{label}_label"])),
                                   False), about["valid"][label])
            for label in LABELS
        }


def keep(file: Path, settings: dict, found: Found) -> None:
    "Leave it for the next call."
    valid = {label: values for label, (_, values) in found.items()}
    about = {"settings": settings, "protocol": found[LABELS[0]][0].protocol, "valid": valid}
    arrays = {f"{label}_{name}": getattr(one, name) for label, (one, _) in found.items()
              for name in ("probability", "label")}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".part").open("wb") as out:
        np.savez_compressed(out, about=json.dumps(about), **arrays)
    file.with_suffix(".part").rename(file)


def shown(values: list[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def report(runs: dict[str, list[Found]], draws: int = 500) -> None:
    """The table, and for each label the paired differences of means over seeds: of each model to
    boosting, and to the same model alone.
    """
    heads = [f"{label} {what}" for label in LABELS for what in ("validation AUC", "test AUC")]
    print(f"\n| model | seeds | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    for name, found in runs.items():
        cells = [
            shown([part["auc"] for part in parts]) for label in LABELS for parts in (
                [one[label][1] for one in found], [one[label][0].values() for one in found])
        ]
        print(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    print()
    for label in LABELS:
        drawn = {  # the same draws of rows for everyone
            name: resampled([one[label][0] for one in found], draws, seed=0)[:, :, 0].mean(0)
            for name, found in runs.items()
        }
        point = {name: mean(one[label][0].values()["auc"] for one in found)
                 for name, found in runs.items()}
        for name in runs:
            for other in ("boosting", f"{name} alone"):
                if name == other or other not in runs or name in BASELINES: continue
                low, high = np.quantile(drawn[name] - drawn[other], [0.025, 0.975])
                print(f"{label}, {name} - {other}: {point[name] - point[other]:+.4f} "
                      f"[{low:+.4f}, {high:+.4f}]")


def main() -> None:
    known = [*BASELINES, *MODELS, *ALONE]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=known, choices=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/task_accuracy"))
    parser.add_argument("--report", action="store_true", help="print what is there, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data, runs = None, {}
    for seed in options.seeds:
        for name in options.models:
            if name in BASELINES and seed != options.seeds[0]: continue     # nothing in them is drawn
            file = options.folder / f"{name.replace(' ', '_')}-{seed}.npz"
            found = kept(file, settings_of(name))
            if not found and not options.report:
                data = data or load_dataset("census-income", task="rank")
                found = work(name, seed, data)
                keep(file, settings_of(name), found)
                values = {label: one.values()["auc"] for label, (one, _) in found.items()}
                print(name, f"seed {seed}", *(f"{label} {auc:.4f}" for label, auc in values.items()),
                      flush=True)
            if found: runs.setdefault(name, []).append(found)
    report({name: runs[name] for name in options.models if name in runs})


if __name__ == "__main__":
    main()
