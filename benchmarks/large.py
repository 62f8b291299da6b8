"""A log of the size that industry has, from frames to lists: CPU minutes and memory of every step.

    python benchmarks/large.py [--scale 1.0] [--seed 0] [--folder FOLDER] [--no-baselines] [--load]

Generated events, Zipf over users and items: at scale 1 a million users, 100,000 items and twenty
million events, written as one Parquet file by a process of its own. Loaded from that file, each user's
last event as the test; DSSM trained for one epoch with sampled negatives, 2,048 rows a step (a row
costs .6 of what it does with 512), and validated within its budget, baselines fitted, the test's users
evaluated over the whole catalogue, and lists of 50 for all of them written as Parquet. Memory
of a step is what the process took above what it had before, beside what was stated before the step
(`explore.footprint`). Target at scale 1: under 45 CPU minutes and 8 GB in all; the load at most 2.5
times the encoded rows (`--load` stops there, `--from frame` loads the same rows from a pandas frame).
"""
import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recbench.core.heap import give_back_freed_memory
from recbench.data.feed.negatives import Negatives
from recbench.data.sets.dataset import Dataset
from recbench.data.sets.infer import infer_schema
from recbench.data.sets.own import dataset_from_frames, load_bytes
from recbench.data.sets.splits import Split
from recbench.evaluate.baselines import fit_baselines
from recbench.evaluate.recommendations import recommend
from recbench.evaluate.retrieval import evaluate
from recbench.explore.footprint import dataset_bytes, footprint
from recbench.models.base import BaseModel
from recbench.models.usual import usual_model
from recbench.train.trainer import Trainer

T = TypeVar("T")


_PEAKS: list[float] = [0.0]      # GB, of the steps so far


def resident(field: str = "VmRSS") -> float:
    "Memory that the process has now, GB; `VmHWM`: had at most since `reset`."
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e9


def reset() -> float:
    "Freed memory goes back to the system, and the greatest is counted anew; GB that are in use."
    give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def step(name: str, call: Callable[[], T], stated: float) -> T:
    """The call's answer; printed: CPU minutes, bytes that were stated before, those that it took above
    what there was, and the most that the process ever had.
    """
    before, start = reset(), time.process_time()
    found = call()
    minutes, most = (time.process_time() - start) / 60, resident("VmHWM")
    _PEAKS.append(most)
    memory = f"stated {stated / 1e9:6.3f}, took {most - before:6.3f}, peak {max(_PEAKS):5.2f} GB"
    print(f"{name:28s} {minutes:7.2f} CPU min   {memory}", flush=True)
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
    rows = len(events) if kind == "frame" else pq.ParquetFile(path).metadata.num_rows
    few = next(pq.ParquetFile(path).iter_batches(1000)).to_pandas()
    stated, before = load_bytes(rows, infer_schema(few)), reset()
    data = step("load", lambda: dataset_from_frames(
        events, split=Split(kind="leave-last"), name="generated", verbose=False
    ), stated)
    encoded, rise = dataset_bytes(data) / 1e9, _PEAKS[-1] - before
    print(f"  {rise / encoded:.2f} x the {encoded:.3f} GB of the encoded rows")
    print(data)
    return data


def train(data: Dataset, model: BaseModel, stated: pd.Series) -> None:
    "One epoch of DSSM; how much of it validation took, and the best weights on all rows."
    watch = Validations()
    drawn = Negatives(kind="sampled", num_sample=min(1024, len(data.items) // 2))
    trainer = Trainer(
        model, data, negatives=drawn, epochs=1, batch_size=2048, progress=False, callbacks=[watch]
    )
    start = time.process_time()
    names = ["other weights", "best epoch's copy", "training batch", "evaluation"]
    history = step("one epoch, validation", trainer.fit, stated[names].sum())
    whole = (time.process_time() - start) / 60
    print(f"  validation {watch.minutes:.2f} CPU min, {watch.minutes / whole:.1%} of it")
    print(history.T.to_string(header=False))


def answer(model: BaseModel, data: Dataset, folder: Path, stated: pd.Series) -> None:
    "The test over the whole catalogue, and lists of 50 into a file."
    found = step("full evaluation", lambda: evaluate(model, data), stated["evaluation"])
    print(found)
    name = f"lists of 50 for {len(found.values):,} users"
    shown = step(name, lambda: recommend(model, data, 50), stated["lists of 50"])
    lists = pa.FixedSizeListArray.from_arrays(pa.array(shown.items.numpy().ravel()), shown.k)
    table = pa.table({"user": shown.users.numpy(), "items": lists})
    step("Parquet", lambda: pq.write_table(table, folder / "lists.parquet"), lists.nbytes)
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
        model = usual_model("DSSM", data)
        stated = footprint(data, model)["bytes"]
        train(data, model, stated)
        if not args.no_baselines:
            names = ["ItemKNN", "EASE" if len(data.items) <= 20_000 else "iALS"]
            fitted = step("baselines", lambda: fit_baselines(data), stated[names].max())
            print(*fitted.values(), sep="\n")
        answer(model, data, place, stated)
        print(f"in all {(time.process_time() - start) / 60:.2f} CPU min, peak {max(_PEAKS):.2f} GB")


if __name__ == "__main__": main()
