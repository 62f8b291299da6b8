"""Cost of the metrics that see many rows, update and compute together.

    python benchmarks/metrics.py [--rounds 5] [--scale 1.0]

One thread, CPU time, median over rounds; every contender computes on the same rows. `--scale 0.01`
shrinks all sizes, for a quick look. Targets: GroupedAUC of 1e6 rows in 1e5 groups under 0.3 s; AUC of
1e7 rows under 0.2 s and within 1e-5 of the exact value; exact XAUC growing as n log n, at most 20 times
dearer for ten times the rows (all pairs would be 100 times).
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from _timing import interleaved, ratio, verdict
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC

from recbench.metrics import AUC, XAUC, ExactAUC, GroupedAUC, GroupedXAUC, NDCGAtK, RecallAtK
from recbench.metrics.pairs import draw_pairs


def once(
    make: Callable[[], Metric], *columns: torch.Tensor, batch: int = 1 << 20
) -> Callable[[], torch.Tensor]:
    "A fresh metric over all rows in batches, and its value."
    def call() -> torch.Tensor:
        metric = make()
        for part in zip(*(column.split(batch) for column in columns)): metric.update(*part)
        return metric.compute()
    return call


def report(
    title: str, calls: dict[str, Callable[[], torch.Tensor]], rounds: int
) -> dict[str, list[float]]:
    "Seconds of each contender, and what it answers."
    took = interleaved(calls, rounds)
    print(title)
    for name, call in calls.items():
        print(f"  {name:42s} {median(took[name]):8.4f} s   {call().item():.7f}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    draw, size = torch.Generator().manual_seed(0), lambda rows: int(rows * args.scale)

    click = torch.rand(size(10_000_000), generator=draw) < 0.1
    probs = torch.sigmoid(torch.randn(len(click), generator=draw) + click - 3)
    calls = {
        "AUC()": once(AUC, probs, click),
        "AUC(thresholds=200)": once(lambda: AUC(200), probs, click),
        "ExactAUC()": once(ExactAUC, probs, click),
    }
    took = report(f"AUC of {len(click):,} rows", calls, min(args.rounds, 3))
    verdict("AUC()", median(took["AUC()"]), at_most=0.2, kind="seconds")
    verdict(
        "AUC() off the exact value",
        (calls["AUC()"]() - calls["ExactAUC()"]()).abs().item(),
        at_most=1e-5,
        kind="difference",
    )
    part = slice(size(1_000_000))
    report(
        f"200 cuts, {len(probs[part]):,} rows",
        {
            "AUC(thresholds=200)": once(lambda: AUC(200), probs[part], click[part]),
            "torchmetrics BinaryAUROC(thresholds=200)": once(
                lambda: BinaryAUROC(thresholds=200), probs[part], click[part].long()
            ),
        },
        args.rounds,
    )

    key = torch.randint(0, size(100_000), (size(1_000_000),), generator=draw)
    took = report(
        f"GroupedAUC of {len(key):,} rows in {size(100_000):,} groups",
        {"GroupedAUC()": once(GroupedAUC, probs[: len(key)], click[: len(key)], key)},
        args.rounds,
    )
    verdict("GroupedAUC()", median(took["GroupedAUC()"]), at_most=0.3, kind="seconds")

    seconds = torch.randn(size(1_000_000), generator=draw)
    model = seconds + torch.randn(len(seconds), generator=draw)
    few = len(seconds) // 10
    took = report(
        "XAUC, all pairs",
        {f"XAUC() of {n:,} rows": once(XAUC, model[:n], seconds[:n]) for n in (few, len(seconds))},
        args.rounds,
    )
    verdict("XAUC() of ten times the rows", ratio(took, *reversed(took)), at_most=20)
    start, number = torch.zeros(1, dtype=torch.int64), torch.tensor([few])
    report(
        "XAUC, pairs drawn",
        {
            f"{n} a row, {few:,} rows": lambda n=n: draw_pairs(
                model[:few], seconds[:few], start, number, n * few, seed=0
            ).share("half")
            for n in (1, 10)
        },
        args.rounds,
    )
    report(
        f"GroupedXAUC of {len(key):,} rows in {size(100_000):,} groups",
        {"GroupedXAUC(), all pairs": once(GroupedXAUC, model[: len(key)], seconds[: len(key)], key)},
        args.rounds,
    )

    scores, first = torch.randn(size(2_000_000) // 201, 201, generator=draw), torch.zeros(
        size(2_000_000) // 201, 201, dtype=torch.bool
    )
    first[:, 0] = True
    report(
        f"{len(scores):,} rows of {scores.shape[1]} candidates, K = 10",
        {
            f"{kind.__name__}(10)": once(lambda kind=kind: kind(10), scores, first)
            for kind in (RecallAtK, NDCGAtK)
        },
        args.rounds,
    )


if __name__ == "__main__":
    main()
