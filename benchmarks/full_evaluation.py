"""Cost of a full evaluation over that of its matrix product alone.

    python benchmarks/full_evaluation.py [--users 100000] [--items 100000] [--width 64] [--rounds 1]

Every held-out item is ranked among the whole catalogue, seen items masked: recall, NDCG, hit rate and
MRR at five cut-offs. The product of the same vectors runs in the same blocks; CPU time, in turns, one
thread. Target: at most 1.6 times the product.
"""
import argparse
from statistics import median

import numpy as np
import pandas as pd
from _timing import interleaved, ratio, verdict
from torch import Tensor, nn

from recbench.data.rows.batch import BASE, Batch
from recbench.data.rows.features import IdFeature, Schema
from recbench.data.sets.dataset import Dataset, build_dataset
from recbench.evaluate.retrieval import _BLOCK, evaluate


class Vectors(nn.Module):
    "A vector for each user and each item, at random."

    def __init__(self, users: int, items: int, width: int):
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)

    def user_embedding(self, batch: Batch) -> Tensor:
        return self.users(batch.sparse_features[BASE]["user"].values())

    def item_embedding(self, batch: Batch) -> Tensor:
        return self.items(batch.sparse_features[BASE]["item"].values())


def make_dataset(users: int, items: int, events: int = 20) -> Dataset:
    "So many training events a user, and one held out."
    rng = np.random.default_rng(0)
    frames = {
        side: pd.DataFrame({f"{side}_id": np.arange(rows), side: np.arange(rows)})
        for side, rows in (("user", users), ("item", items))
    }
    rows = pd.DataFrame({"user_id": np.repeat(np.arange(users), events + 1),
                         "item_id": rng.integers(items, size=users * (events + 1)),
                         "timestamp": np.tile(np.arange(events + 1), users)})
    last = rows["timestamp"] == events
    features = (IdFeature(name="user", num_buckets=users),
                IdFeature(name="item", side="item", num_buckets=items))
    return build_dataset("uniform", Schema(features=features), rows[~last], None, rows[last],
                         frames["user"], frames["item"], protocol="last", max_history=0, max_recent=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("users", 100_000), ("items", 100_000), ("width", 64), ("rounds", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    data, model = make_dataset(args.users, args.items), Vectors(args.users, args.items, args.width)
    users, items = model.users.weight.detach(), model.items.weight.detach()

    def product() -> None:
        for some in users.split(max(1, _BLOCK // args.items)): some @ items.T

    took = interleaved({
        "matrix product": product,
        "full evaluation": lambda: evaluate(model, data, [5, 10, 20, 50, 100]),
    }, args.rounds)
    print(f"{args.users:,} users x {args.items:,} items, {args.width} numbers")
    for name, seconds in took.items(): print(f"  {name:16s} {median(seconds):7.1f} CPU s")
    more = ratio(took, "full evaluation", "matrix product")
    verdict("full evaluation over its product", more, at_most=1.6)


if __name__ == "__main__": main()
