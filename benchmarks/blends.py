"""Blend of DSSM, EASE and ItemKNN on MovieLens-1M after a date: recall of the test with its interval,
beside its members.

    python benchmarks/blends.py [--seeds 0 1 2] [--rows all] [--folder runs/blends] [--records]

DSSM is trained as its recipe says (`LASTING`) on training rows, and with `--rows all` once more on all
rows before the test; both leave their weights in the folder and are not trained again. Shares are
chosen by recall@50 of validation users who were known before, from members that were fitted on
training rows; in the test EASE and ItemKNN are those of all rows before it, and so is DSSM with `--rows
all`. Its popularity of the last week is that of all rows before the test in either case.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from _records import record

from recbench.data import Dataset, Negatives, equal_users, load_dataset
from recbench.evaluate import Blend, RecentPrior, evaluate
from recbench.evaluate.baselines import fit_baselines, refit_baselines
from recbench.evaluate.retrieval import scorer
from recbench.models import recipe_of, usual_model
from recbench.models.base import BaseModel
from recbench.train import Trainer

NAME, KNOWN = "movielens-1m by time", 5      # validation users have so many training rows
RECIPE = recipe_of("DSSM", NAME)
METRICS = ["recall@10", "recall@50", "ndcg@10"]


class OnItsRows:
    "A model whose ids are those of another data set with the same users, items and test rows."

    def __init__(self, model: BaseModel | RecentPrior, own: Dataset): self.model, self.own = model, own

    def row_scorer(self, dataset: Dataset, split: str):
        for one in ("user_index", "item_index"):
            assert torch.equal(dataset.split(split).columns[one], self.own.split(split).columns[one])
        return scorer(self.model, self.own, split)


def data_of(rows: str) -> Dataset:
    "Data with all of each user's history, validation rows apart or among the training rows."
    how = {"protocol": "global-time", "max_history": 1000, "max_recent": 0}
    return load_dataset("movielens-1m", **how, **({"validation": False} if rows == "all" else {}))


def known(data: Dataset) -> Dataset:
    "The same with validation rows of known users alone."
    rows = torch.bincount(data.train.columns["user_index"], minlength=len(data.users))
    kept = rows[data.valid.columns["user_index"]] >= KNOWN
    return replace(data, valid=data.valid.take(kept.nonzero().squeeze(1)))


def trained(data: Dataset, rows: str, seed: int, folder: Path) -> tuple[BaseModel, float]:
    "DSSM of its recipe, from the folder or trained into it, and the CPU seconds that it took now."
    start, even = time.process_time(), equal_users(data)
    even = replace(even, valid=even.valid.take(torch.arange(0)))      # its length is known
    model, file = usual_model("DSSM", even, RECIPE, seed), folder / f"dssm-{rows}-{seed}.pt"
    if file.is_file(): model.load_state_dict(torch.load(file, weights_only=True))
    else:
        Trainer(model, even, recipe=RECIPE, seed=seed, negatives=Negatives(kind="full")).fit()
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    return model.eval(), time.process_time() - start


def late(model: BaseModel, data: Dataset, *splits: str) -> RecentPrior:
    "With the popularity of the last week of the rows of some splits."
    names = ("user_index", "item_index", data.schema.timestamp)
    columns = {name: torch.cat([data.split(one).columns[name] for one in splits]) for name in names}
    rows = replace(data, train=replace(data.train, columns=columns, jagged={}))
    half_life = RECIPE.popularity_half_life_days * 86400
    return RecentPrior(model, rows, half_life, returning=RECIPE.popularity_returning)


def judge(seed: int, rows: str, folder: Path, write: bool) -> None:
    "A line of each member and of the blend, and its record."
    data, whole = data_of("train"), data_of("all")
    first, seconds = trained(data, "train", seed, folder)
    few = known(data)
    fitted = {
        name: one for name, one in fit_baselines(data, folder=folder).items()
        if name in ("EASE", "ItemKNN")
    }
    chosen = Blend({"DSSM": late(first, data, "train"), **fitted}, few, metric="recall@50")
    print(f"seed {seed}", chosen, flush=True)
    last: OnItsRows | RecentPrior = OnItsRows(late(first, data, "train", "valid"), data)
    if rows == "all":
        again, more = trained(whole, "all", seed, folder)
        last, seconds = late(again, whole, "train"), seconds + more
    members = {"DSSM": last, **refit_baselines(fitted, whole, "train")}
    for name, one in {**members, "blend": Blend(members, whole, chosen.weights)}.items():
        values = evaluate(one, whole, (10, 50), name=name).values[METRICS]
        print(f"seed {seed} {name:8s}", values.mean().round(4).to_dict(), flush=True)
    shares = ", ".join(f"{name} {one:.2f}" for name, one in chosen.weights.items())
    command = f"python benchmarks/blends.py --rows {rows} --seeds {seed} --records"
    label = "Blend (DSSM, EASE, ItemKNN)" + ("" if rows == "all" else ", DSSM of training rows")
    if write: record(NAME, whole.protocol, label, seed, values, command, None, f"shares {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", choices=["train", "all"], default="all", help="that train DSSM")
    parser.add_argument("--folder", type=Path, default=Path("runs/blends"))
    parser.add_argument("--records", action="store_true", help="write records for the page of results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds: judge(seed, options.rows, options.folder, options.records)


if __name__ == "__main__":
    main()
