"""Memory that lists for many users take above the model: `Run.recommend` of a sequence model.

    python benchmarks/recommend_memory.py [--users 100000] [--items 100000] [--events 20] [--k 50]

SASRec, 64 wide, is trained for two steps on generated events, its run loaded again, and asked for the
lists of all users at once. Peak of the process above what it had with the run loaded, and above the
answer itself. Target at 100,000 users: under 1.5 GB more than the model.
"""
import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from recbench.data.sets.own import dataset_from_frames
from recbench.models.usual import usual_model
from recbench.train.runs import Run
from recbench.train.trainer import Trainer


def peak(start: bool = False) -> float:
    "Most memory since it was last asked to start, GB."
    if start: Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / 1e9


def resident() -> float:
    "Memory that the process has now, GB."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9


def train(folder: Path, users: int, items: int, events: int) -> np.ndarray:
    "A run of two steps in the folder; the users' ids."
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({
        "user_id": np.repeat(np.arange(users), events),
        "item_id": rng.permutation(np.resize(np.arange(items), users * events)),
        "timestamp": np.tile(np.arange(events), users),
    })
    last = rows["timestamp"] == events - 1
    data = dataset_from_frames({"train": rows[~last], "test": rows[last]}, verbose=False)
    Trainer(usual_model("SASRec", data), data, steps=2, run_dir=folder, progress=False).fit()
    return np.arange(users)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("users", 100_000), ("items", 100_000), ("events", 20), ("k", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        users = train(Path(folder), args.users, args.items, args.events)
        run = Run.load(folder)
        run.recommend(users[:10], args.k)
        before, start = resident(), time.process_time()
        peak(start=True)
        lists = run.recommend(users, args.k)
        more, answer = peak() - before, lists.memory_usage(deep=True).sum() / 1e9
    print(f"{args.users:,} users x {args.items:,} items, lists of {args.k}: "
          f"{(time.process_time() - start) / 60:.2f} CPU min, {more:.2f} GB above {before:.2f} with "
          f"the run loaded; the answer is {answer:.2f} (target at most 1.5)")


if __name__ == "__main__": main()
