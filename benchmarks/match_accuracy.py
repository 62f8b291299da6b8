"""Recall and NDCG of the matching models over the whole catalogue, beside models that cost nothing:
mean and spread over seeds.

    python benchmarks/match_accuracy.py [--datasets movielens-100k ...] [--models SASRec ...] [--seeds
        0] [--tie-seeds 0] [--threads 1] [--folder runs/match_accuracy] [--records]
    python benchmarks/match_accuracy.py --datasets movielens-100k "movielens-100k P1" --seeds 0 1 2
        --tie-seeds 0 1 2

Each model is trained as its recipe for the data set says (`recbench.models.recipes`). The epoch is
chosen on validation rows (at most 1,500 of them, 6,000 where negatives are drawn, evenly spaced). A
finished training leaves the metrics of each user in the folder and is not done again, so that what
was broken off goes on; `--report` only prints what is there, `--records` leaves a small record of
each seed and baseline in benchmarks/results. MovieLens-1M comes with its times in whole hours, of which
HSTUMatch reads the pauses up to the question; the others know the order alone.
Baselines are chosen on validation rows and shown twice: fitted on training rows, and (`refit`) on all
before the test, as by time the model is whose users weigh the same. The last columns are the paired
differences to EASE and to its refit with an interval of 95 % over users, of the mean over seeds.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import pandas as pd
import torch
from _records import record

from recbench.data import Dataset, equal_users, load_dataset
from recbench.evaluate.baselines import fit_baselines, with_refits
from recbench.evaluate.recent_prior import RecentPrior
from recbench.evaluate.retrieval import evaluate
from recbench.evaluate.significance import paired_interval
from recbench.models import Recipe, recipe_of, usual_model
from recbench.train import Trainer
from recbench.train.tasks import default_negatives

DATASETS = {   # name here -> name and options of load_dataset
    "movielens-100k": ("movielens-100k", {}),
    "movielens-100k P1": ("movielens-100k", {"ties": "item_id"}),
    "movielens-1m": ("movielens-1m", {"time_windows": True}),
    "movielens-1m by time": ("movielens-1m", {"protocol": "global-time", "max_history": 50}),
    "amazon-beauty": ("amazon-beauty", {}),
}
MODELS = {   # name here -> models
    "movielens-100k": ("DSSM", "DSSMV2", "DAT", "MIND", "SASRec", "ESASRec", "HSTUMatch", "DropoutNet"),
    "movielens-100k P1": ("DSSM", "DSSMV2", "DAT", "MIND"),
    "movielens-1m": ("DSSM", "SASRec", "HSTUMatch"),
    "movielens-1m by time": ("DSSM", "SASRec"),
    "amazon-beauty": ("SASRec", "ESASRec"),
}

SETTINGS = {
    (name, model): recipe_of(model, name) for name, models in MODELS.items() for model in models
}
ALL_ROWS = {"max_history": 1000, "max_recent": 0}   # of a training on all rows before the test
TIED = ("movielens-100k",)   # data sets with several neutral orders
METRICS = ("recall@10", "recall@50", "ndcg@10")
TOP_K = (10, 20, 50)


def train(data: Dataset, model_name: str, recipe: Recipe, seed: int) -> tuple[pd.DataFrame, str]:
    "Test metrics of each user, and how the training ended."
    if recipe.equal_user_weight: return train_on_all(data, model_name, recipe, seed)
    model = usual_model(model_name, data, recipe, seed)
    rows = 1500 if recipe.negatives.kind == "full" else 6000   # a step that costs less, a finer choice
    few = replace(
        data, valid=data.valid.take(torch.arange(0, len(data.valid), -(-len(data.valid) // rows)))
    )
    trainer = Trainer(model, few, recipe=recipe, seed=seed)
    trainer.fit()
    return evaluate(model, data, TOP_K).values, f"epoch {trainer.best_epoch} of {len(trainer.history)}"


def train_on_all(
    data: Dataset, model_name: str, recipe: Recipe, seed: int
) -> tuple[pd.DataFrame, str]:
    """The same for a training on every row before the test, its length known, with histories that end
    earlier, users that weigh the same, and the popularity of the last week.
    """
    data = equal_users(data)
    model = usual_model(model_name, data, recipe, seed)
    trainer = Trainer(model, data, recipe=recipe, seed=seed)
    trainer.fit()
    half_life = recipe.popularity_half_life_days * 86400
    late = RecentPrior(model, data, half_life, returning=recipe.popularity_returning)
    return (
        evaluate(late, data, TOP_K).values,
        f"{len(trainer.history)} epochs on all rows",
    )


def with_negatives(model_name: str, data: Dataset, recipe: Recipe) -> Recipe:
    "The recipe with the negatives that the trainer takes, so that a record tells them."
    drawn = recipe.negatives or default_negatives(usual_model(model_name, data, recipe, 0), data)
    return recipe.with_own(negatives=drawn)


def is_kept(file: Path, settings: dict) -> bool:
    "Whether an earlier call left this."
    about = file.with_suffix(".json")
    return about.is_file() and json.loads(about.read_text())["settings"] == json.loads(
        json.dumps(settings)
    )


def kept(file: Path, settings: dict, make) -> tuple[pd.DataFrame, str]:
    "What an earlier call left, or what `make` returns, left for the next one."
    about = file.with_suffix(".json")
    if is_kept(file, settings): return pd.read_parquet(file), json.loads(about.read_text())["end"]
    start = time.process_time()
    values, end = make()
    seconds = time.process_time() - start
    file.parent.mkdir(parents=True, exist_ok=True)
    values.to_parquet(file)
    about.write_text(json.dumps({"settings": settings, "end": end, "cpu_seconds": seconds}))
    return values, end


def write_records(
    name: str, model_name: str, protocol: str, files: dict[int, Path], recipe: Recipe
) -> None:
    "A small record of each finished seed, for the page of results."
    command = f"python benchmarks/match_accuracy.py --datasets {name!r} --models {model_name}"
    for seed, file in files.items():
        if not file.is_file(): continue
        about = json.loads(file.with_suffix(".json").read_text())
        values = pd.read_parquet(file)[list(METRICS)]
        seconds = about.get("cpu_seconds")
        record(name, protocol, model_name, seed, values, f"{command} --seeds {seed}", seconds,
               about["end"], str(recipe))


def record_baseline(name: str, label: str, file: Path, protocol: str) -> None:
    "The same of a baseline."
    rows = "all rows before the test" if label.endswith("refit") else "training rows"
    command = f"python benchmarks/match_accuracy.py --datasets {name!r} --models --records"
    values = pd.read_parquet(file)[list(METRICS)]
    record(name, protocol, label, None, values, command, None,
           f"settings chosen on validation rows, fitted on {rows}")


def row(name: str, runs: list[pd.DataFrame], simple: dict[str, pd.DataFrame], note: str = "") -> str:
    "A line of the table; `simple` holds the baselines."
    mean, spread = sum(runs) / len(runs), {
        metric: [run[metric].mean() for run in runs] for metric in METRICS
    }
    cells = [
        f"{metric} {mean[metric].mean():.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
        for metric, values in spread.items()
    ]
    less = {other: gaps(mean, simple[other]) for other in ("EASE", "EASE refit") if other != name}
    return (
        f"{name:16s} {' '.join(cells)}"
        + "".join(f"  less {other}: {text}" for other, text in less.items())
        + (f"  ({note})" if note else "")
    )


def gaps(mean: pd.DataFrame, other: pd.DataFrame) -> str:
    "Paired differences with their intervals."
    middle, low, high = paired_interval(mean[list(METRICS)].to_numpy(), other[list(METRICS)].to_numpy())
    return " ".join(
        f"{metric} {middle[i]:+.4f} [{low[i]:+.4f}, {high[i]:+.4f}]" for i, metric in enumerate(METRICS)
    )


def judge(
    name: str, how: dict, place: Path, options: argparse.Namespace
) -> dict[str, list[pd.DataFrame]]:
    """Lines of one data set under one order of ties.

    The metrics of each user of each model, seed by seed.
    """
    source, by_time = (
        DATASETS[name][0],
        how.get("protocol") == "global-time",
    )  # by time the newest rows count most, and all train once settings are chosen
    data = load_dataset(source, **how)
    whole = load_dataset(source, **how, validation=False) if by_time else data
    baselines: dict = {}
    def baseline(label: str) -> tuple[pd.DataFrame, str]:
        if not baselines: baselines.update(with_refits(fit_baselines(data), whole))
        return evaluate(baselines[label], whole, TOP_K).values, ""
    labels = [
        name + again for name in ("popularity", "Markov", "ItemKNN", "EASE") for again in ("", " refit")
    ]
    settled = lambda label: {
        "top_k": TOP_K,
        "protocol": data.protocol,
        "rows": "all" if label.endswith("refit") else "train",
    }
    simple = {
        label: kept(
            place / f"{label.replace(' ', '-')}.parquet",
            settled(label),
            lambda label=label: baseline(label),
        )[0]
        for label in labels
    }
    found = {label: [values] for label, values in simple.items()}
    for label in labels if options.records else ():
        record_baseline(name, label, place / f"{label.replace(' ', '-')}.parquet", data.protocol)
    print(
        f"{name} [{data.protocol}, all {len(data.items):,} items ranked, {len(simple['EASE']):,} users]"
    )
    for label, values in simple.items(): print(row(label, [values], simple), flush=True)
    for (where, model_name), settings in SETTINGS.items():
        if where != name or model_name not in options.models: continue
        recipe = with_negatives(model_name, data, settings)
        settings = recipe.to_dict() | {"protocol": data.protocol}
        files = {seed: place / f"{model_name}-{seed}.parquet" for seed in options.seeds}
        done = [
            kept(
                file,
                settings,
                lambda seed=seed, recipe=recipe, model_name=model_name: train(
                    (
                        load_dataset(source, **how | ALL_ROWS, validation=False)
                        if recipe.equal_user_weight
                        else data
                    ),
                    model_name,
                    recipe,
                    seed,
                ),
            )
            for seed, file in files.items()
            if is_kept(file, settings) or not options.report
        ]
        if done:
            print(
                row(
                    model_name,
                    [values for values, _ in done],
                    simple,
                    f"{len(done)} seeds, " + ", ".join(end for _, end in done),
                ),
                flush=True,
            )
        if done and options.records: write_records(name, model_name, data.protocol, files, recipe)
        if done: found[model_name] = [values for values, _ in done]
    return found


def report_orders(orders: list[dict[str, list[pd.DataFrame]]]) -> None:
    """Mean over the orders of ties and the spread of the orders' means, and the same of differences to
    EASE.
    """
    print(f"mean ± spread over {len(orders)} orders of ties")
    means = {
        label: pd.DataFrame([pd.concat(order[label])[list(METRICS)].mean() for order in orders])
        for label in orders[0]
        if all(label in order for order in orders)
    }
    cells = lambda values, sign="": " ".join(
        f"{metric} {values[metric].mean():{sign}.4f} ± {values[metric].std():.4f}" for metric in METRICS
    )
    for label, values in means.items():
        less = "".join(
            f"  less {other}: {cells(values - means[other], '+')}"
            for other in ("EASE", "EASE refit")
            if other != label
        )
        print(f"{label:18s} {cells(values)}{less}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--models", nargs="*", default=sorted({model for _, model in SETTINGS}))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tie-seeds", nargs="+", type=int, default=[0], help="neutral orders of ties")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/match_accuracy"))
    parser.add_argument("--records", action="store_true", help="write records for the page of results")
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.datasets:
        how, place = DATASETS[name][1], options.folder / name.replace(" ", "-")
        orders = (
            [
                judge(name, how | {"tie_seed": seed}, place / f"ties-{seed}", options)
                for seed in options.tie_seeds
            ]
            if name in TIED
            else [judge(name, how, place, options)]
        )
        if len(orders) > 1: report_orders(orders)


if __name__ == "__main__":
    main()
