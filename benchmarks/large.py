"""A log of the size that industry has, from frames to lists: CPU minutes and memory of every step.

    python benchmarks/large.py [--scale 1.0] [--seed 0] [--folder FOLDER] [--no-baselines]

Generated events, Zipf over users and items: at scale 1 a million users, 100,000 items and twenty
million events. Loaded, DSSM trained for one epoch with sampled negatives and validated within its
budget, baselines fitted, the test's users evaluated over the whole catalogue, and lists of 50 for all
of them written as Parquet. Target at scale 1: under 45 CPU minutes and 8 GB in all.
"""
import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from recbench.data.feed.negatives import Negatives
from recbench.data.sets.own import dataset_from_frames
from recbench.evaluate.baselines import fit_baselines
from recbench.evaluate.recommendations import recommend
from recbench.evaluate.retrieval import evaluate
from recbench.models.usual import usual_model
from recbench.train.trainer import Trainer

T = TypeVar("T")


def peak() -> float:
    "Most memory that the process ever had, GB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-baselines", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, events = time.process_time(), make_events(args.scale, args.seed)
    print(f"{len(events):,} events, peak {peak():.2f} GB before the first step")
    data = step("load", partial(dataset_from_frames, events, verbose=False))
    del events
    print(data)
    model = usual_model("DSSM", data)
    drawn = Negatives(kind="sampled", num_sample=min(1024, len(data.items) // 2))
    trainer = Trainer(model, data, negatives=drawn, epochs=1, progress=False)
    history = step("one epoch, validation", trainer.fit)
    print(history.T.to_string(header=False))
    if not args.no_baselines:
        fitted = step("baselines", lambda: fit_baselines(data))
        print(*fitted.values(), sep="\n")
    found = step("full evaluation", lambda: evaluate(model, data))
    print(found)
    shown = step(f"lists of 50 for {len(found.values):,} users", lambda: recommend(model, data, 50))
    with tempfile.TemporaryDirectory() as folder:
        path = (args.folder or Path(folder)) / "lists.parquet"
        frame = pd.DataFrame({"user": shown.users.numpy(), "items": list(shown.items.numpy())})
        step("Parquet", lambda: frame.to_parquet(path, index=False))
        print(f"{path.stat().st_size / 1e6:.1f} MB")
    print(f"in all {(time.process_time() - start) / 60:.2f} CPU min, peak {peak():.2f} GB")


if __name__ == "__main__": main()
