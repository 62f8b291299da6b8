"""Cost of `RecallAtK.update` against sorting every row, at the size of a sampled match batch.

    python benchmarks/recall_update.py [--rows 8192] [--columns 1025] [--top-k 10] [--rounds 7]

The two run in turn on one thread; medians of CPU time are compared. The last line holds the ratio, which should stay below 0.1.
"""
import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts its threads

from statistics import median
from time import process_time
from typing import Callable

import torch
from torch import Tensor

from recbench.metrics.recall import RecallAtK


def sorted_hits(preds: Tensor, target: Tensor, k: int) -> Tensor:
    "Positives in the first k of each row, by a full argsort."
    first = preds.argsort(dim=1, descending=True)[:, :k]
    return target.gather(1, first).sum()


def cpu_seconds(call: Callable[[], object]) -> float:
    start = process_time()
    call()
    return process_time() - start


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    "Median CPU seconds of each call, all of them taking turns; the first turn warms up."
    turns = [{name: cpu_seconds(call) for name, call in calls.items()} for _ in range(rounds + 1)]
    return {name: median(turn[name] for turn in turns[1:]) for name in calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rows", 8192), ("columns", 1025), ("top-k", 10), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    preds = torch.randn(args.rows, args.columns, generator=generator)
    target = torch.zeros(args.rows, args.columns, dtype=torch.bool)
    target[:, 0] = True
    metric = RecallAtK(args.top_k)
    metric.update(preds, target)
    assert metric.hits == sorted_hits(preds, target, args.top_k)

    times = interleaved({
        "full argsort": lambda: sorted_hits(preds, target, args.top_k),
        "RecallAtK.update": lambda: metric.update(preds, target),
    }, args.rounds)
    print(f"{args.rows} x {args.columns}, k = {args.top_k}, one thread, median CPU time of {args.rounds} rounds")
    for name, seconds in times.items(): print(f"{name:18s} {seconds * 1e3:8.1f} ms")
    print(f"ratio {times['RecallAtK.update'] / times['full argsort']:.3f}")


if __name__ == "__main__":
    main()
