"""Exact search against the bare matrix product, and a full-corpus evaluation of MovieLens-1M's size
once embeddings exist.

    python benchmarks/item_index.py [--rounds 5] [--users 1024]

First: `ItemIndex(kind="exact")` finds the best 100 of 100,000 items (64 columns, unit vectors around
1,000 centres) for each user, and the product of the same blocks of users with all items is taken alone,
nothing kept of it; one thread, CPU time, taking turns. Asked is at least 0.5 of the product's rate.
`Tensor.topk` over the same product stands beside it.

Second: `evaluate` of given vectors (64 columns), 6,040 users, 3,706 items, 1,000,209 events of which
each user's last is held out and the others are masked, five cut-offs, four metrics. Asked is under 2 s.
"""

import argparse
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _timing import interleaved, ratio, verdict

from recbench.core.heap import keep_freed_memory
from recbench.data.rows.features import IdFeature, Schema
from recbench.data.sets.dataset import Dataset, build_dataset
from recbench.evaluate.item_index import ItemIndex
from recbench.evaluate.retrieval import evaluate

ITEMS, DIM, K, BLOCK = 100_000, 64, 100, 128
ML1M_USERS, ML1M_ITEMS, ML1M_EVENTS = 6_040, 3_706, 1_000_209


def vectors(rows: int, centres: torch.Tensor) -> torch.Tensor:
    "Unit vectors [rows, D] around the centres."
    return F.normalize(
        centres[torch.randint(len(centres), (rows,))] + 0.5 * torch.randn(rows, centres.shape[1]), dim=1
    )


def products(users: torch.Tensor, items: torch.Tensor) -> None:
    "The matrix product, block by block, into one buffer."
    buffer = torch.empty(BLOCK, len(items))
    for block in users.split(BLOCK): torch.mm(block, items.T, out=buffer[:len(block)])


def search(users: int, rounds: int) -> None:
    "Rates of the index, the product alone, and the product with `topk`."
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(1000, DIM), dim=1)
    items, asked = vectors(ITEMS, centres), vectors(users, centres)
    index = ItemIndex(items, kind="exact")
    calls = {
        "product": lambda: products(asked, items),
        "index": lambda: index.search(asked, K),
        "topk": lambda: [(block @ items.T).topk(K) for block in asked.split(BLOCK)],
    }
    took = interleaved(calls, rounds)
    for name, seconds in took.items():
        print(f"{name:8s} {users / median(seconds):>8,.0f} users a CPU second")
    verdict(
        f"top-{K} of {ITEMS:,} items: rate against the product",
        ratio(took, "product", "index"),
        at_least=0.5,
    )


class Given:
    "Vectors as a model."

    def __init__(self, users: torch.Tensor, items: torch.Tensor): self.users, self.items = users, items

    def score_rows(self, dataset: Dataset, split: str, rows: torch.Tensor) -> torch.Tensor:
        return self.users[dataset.split(split).columns["user_index"][rows]] @ self.items.T


def ml1m_size() -> Dataset:
    "Random events, the last of each user held out."
    rng = np.random.default_rng(0)
    user = np.concatenate(
        [np.arange(ML1M_USERS).repeat(3), rng.integers(ML1M_USERS, size=ML1M_EVENTS - 3 * ML1M_USERS)]
    )
    item = (ML1M_ITEMS * rng.random(len(user)) ** 2).astype(int)
    events = pd.DataFrame(
        {"user_id": user, "item_id": item, "timestamp": rng.permutation(len(user))}
    ).sort_values(["user_id", "timestamp"])
    turn = events.groupby("user_id").cumcount(ascending=False)
    schema = Schema(
        features=(
            IdFeature(name="user_id", side="user", embedding_dim=DIM),
            IdFeature(name="item_id", side="item", embedding_dim=DIM),
        )
    )
    sides = (
        pd.DataFrame({"user_id": np.arange(ML1M_USERS)}),
        pd.DataFrame({"item_id": np.arange(ML1M_ITEMS)}),
    )
    return build_dataset(
        "ml1m-size",
        schema,
        events[turn > 1],
        events[turn == 1],
        events[turn == 0],
        *sides,
        protocol="leave-last",
        max_history=0,
    )


def evaluation(rounds: int) -> None:
    "CPU seconds of a full-corpus evaluation."
    torch.manual_seed(0)
    dataset, model = ml1m_size(), Given(torch.randn(ML1M_USERS, DIM), torch.randn(ML1M_ITEMS, DIM))
    took = interleaved({"evaluate": lambda: evaluate(model, dataset)}, rounds)["evaluate"]
    verdict(
        f"evaluate, {ML1M_USERS:,} users, {ML1M_ITEMS:,} items",
        median(took),
        at_most=2.0,
        kind="CPU seconds",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=1024)
    options = parser.parse_args()
    keep_freed_memory()
    search(options.users, options.rounds)
    evaluation(options.rounds)


if __name__ == "__main__":
    main()
