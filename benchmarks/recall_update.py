"""Cost of `RecallAtK.update` against sorting every row, at the size of a sampled match batch.

    python benchmarks/recall_update.py [--rows 8192] [--columns 1025] [--top-k 10] [--rounds 7]

The two run in turn on one thread; CPU time. Target: `RecallAtK.update` in at most a tenth of the sort.
"""
import argparse
from statistics import median

import torch
from _timing import interleaved, ratio, verdict
from torch import Tensor

from recbench.metrics.recall import RecallAtK


def sorted_hits(preds: Tensor, target: Tensor, k: int) -> Tensor:
    "Positives in the first k of each row, by a full argsort."
    first = preds.argsort(dim=1, descending=True)[:, :k]
    return target.gather(1, first).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rows", 8192), ("columns", 1025), ("top-k", 10), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    preds = torch.randn(args.rows, args.columns, generator=generator)
    target = torch.zeros(args.rows, args.columns, dtype=torch.bool)
    target[:, 0] = True
    metric = RecallAtK(args.top_k)
    metric.update(preds, target)
    assert metric.hits == sorted_hits(preds, target, args.top_k)

    took = interleaved({
        "full argsort": lambda: sorted_hits(preds, target, args.top_k),
        "RecallAtK.update": lambda: metric.update(preds, target),
    }, args.rounds)
    print(f"{args.rows} x {args.columns}, k = {args.top_k}")
    for name, seconds in took.items(): print(f"{name:18s} {median(seconds) * 1e3:8.1f} ms")
    verdict(
        "RecallAtK.update / full argsort", ratio(took, "RecallAtK.update", "full argsort"), at_most=0.1
    )


if __name__ == "__main__":
    main()
