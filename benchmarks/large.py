"""A log of the size that industry has, from frames to lists: CPU minutes and memory of every step.

    python benchmarks/large.py [--scale 1.0] [--seed 0] [--folder FOLDER] [--no-baselines] [--load]

Generated events, Zipf over users and items: at scale 1 a million users, 100,000 items and twenty
million events, written as one Parquet file by a process of its own. Loaded from that file, each user's
last event as the test; DSSM trained for one epoch with sampled negatives, 2,048 rows a step (a row
costs .6 of what it does with 512), and validated within its budget, baselines fitted, the test's users
evaluated over the whole catalogue, and lists of 50 for all of them written as Parquet. Target
at scale 1: under 45 CPU minutes and 8 GB in all; the load's peak,
above what the process had before, at most 2.5 times the encoded rows (`--load` stops there, and
`--from frame` loads the same rows from a pandas frame).
"""
import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from recbench.data.feed.negatives import Negatives
from recbench.data.sets.dataset import Dataset
from recbench.data.sets.own import dataset_from_frames
from recbench.data.sets.splits import Split
from recbench.evaluate.baselines import fit_baselines
from recbench.evaluate.recommendations import recommend
from recbench.evaluate.retrieval import evaluate
from recbench.explore.footprint import dataset_bytes
from recbench.models.base import BaseModel
from recbench.models.usual import usual_model
from recbench.train.trainer import Trainer

T = TypeVar("T")


def peak() -> float:
    "Most memory that the process ever had, GB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def resident() -> float:
    "Memory that the process has now, GB."
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def step(name: str, call: Callable[[], T]) -> T:
    "The call's answer; its CPU minutes and the process' peak until then are printed."
    start = time.process_time()
    found = call()
    minutes = (time.process_time() - start) / 60
    print(f"{name:28s} {minutes:7.2f} CPU min   peak {peak():6.2f} GB", flush=True)
    return found


def zipf(size: int, values: int, shift: float, power: float, rng: np.random.Generator) -> np.ndarray:
    "Draws of 0..values-1, the r-th as likely as (r + shift) ** -power."
    weights = ((np.arange(values) + shift) ** -power).cumsum()
    return np.searchsorted(weights, rng.random(size) * weights[-1]).clip(max=values - 1)


def make_events(scale: float, seed: int) -> pd.DataFrame:
    "Events with rising times, ids in no order."
    rng = np.random.default_rng(seed)
    users, items, rows = (max(100, int(size * scale)) for size in (10**6, 10**5, 2 * 10**7))
    return pd.DataFrame({
        "user_id": rng.permutation(users)[zipf(rows, users, 100, 0.5, rng)],
        "item_id": rng.permutation(items)[zipf(rows, items, 10, 1.0, rng)],
        "timestamp": np.arange(rows),
    })


def write_events(path: Path, scale: float, seed: int) -> None:
    "The events as a Parquet file."
    make_events(scale, seed).to_parquet(path, index=False, row_group_size=1 << 20)


class Validations:
    "Trainer callback: CPU minutes of each epoch's validation."

    def __init__(self) -> None: self.minutes = 0.0

    def on_validate(self, trainer: Trainer) -> None: self.start = time.process_time()

    def on_validated(self, trainer: Trainer) -> None:
        self.minutes += (time.process_time() - self.start) / 60


def load(path: Path, kind: str) -> Dataset:
    "The data set of the file; the load's peak beside the bytes of the encoded rows."
    events = pd.read_parquet(path) if kind == "frame" else path
    before = resident()
    data = step("load", lambda: dataset_from_frames(
        events, split=Split(kind="leave-last"), name="generated", verbose=False
    ))
    rows, rise = dataset_bytes(data) / 1e9, peak() - before
    print(f"  {rise:.2f} GB above the {before:.2f} before, {rise / rows:.2f} x the {rows:.2f} encoded")
    print(data)
    return data


def train(data: Dataset) -> BaseModel:
    "DSSM after one epoch; how much of it validation took, and the best weights on all rows."
    model, watch = usual_model("DSSM", data), Validations()
    drawn = Negatives(kind="sampled", num_sample=min(1024, len(data.items) // 2))
    trainer = Trainer(
        model, data, negatives=drawn, epochs=1, batch_size=2048, progress=False, callbacks=[watch]
    )
    start = time.process_time()
    history = step("one epoch, validation", trainer.fit)
    whole = (time.process_time() - start) / 60
    print(f"  validation {watch.minutes:.2f} CPU min, {watch.minutes / whole:.1%} of it")
    print(history.T.to_string(header=False))
    return model


def answer(model: BaseModel, data: Dataset, folder: Path) -> None:
    "The test over the whole catalogue, and lists of 50 into a file."
    found = step("full evaluation", lambda: evaluate(model, data))
    print(found)
    shown = step(f"lists of 50 for {len(found.values):,} users", lambda: recommend(model, data, 50))
    frame = pd.DataFrame({"user": shown.users.numpy(), "items": list(shown.items.numpy())})
    step("Parquet", lambda: frame.to_parquet(folder / "lists.parquet", index=False))
    print(f"  {(folder / 'lists.parquet').stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--from", dest="kind", choices=("file", "frame"), default="file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place, start = args.folder or Path(folder), time.process_time()
        path = place / "events.parquet"
        maker = multiprocessing.get_context("spawn").Process(
            target=write_events, args=(path, args.scale, args.seed)
        )
        maker.start()
        maker.join()
        data = load(path, args.kind)
        if args.load: return
        model = train(data)
        if not args.no_baselines:
            fitted = step("baselines", lambda: fit_baselines(data))
            print(*fitted.values(), sep="\n")
        answer(model, data, place)
        print(f"in all {(time.process_time() - start) / 60:.2f} CPU min, peak {peak():.2f} GB")


if __name__ == "__main__": main()
