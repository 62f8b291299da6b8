"""One training step of a DSSM through the Trainer, against the same net written plainly and against its
matrix products alone.

    python benchmarks/dssm_step.py [--buckets 100000] [--batch 4096] [--steps 3] [--rounds 9]

8 user and 8 item features of width 16, towers 256-128-64 (hidden layers 256 and 128, output 64), cosine
over a temperature, in-batch negatives; float32, CPU time of one thread, the contenders taking turns.

recbench     loading, forward, backward, update: batches of the `MatchLoader` into `Trainer.train_step`,
             negatives as `default_negatives` gives them, with log Q correction and masked accidental
             hits
uncorrected  the same with both corrections off, which is the loss of the plain loop
plain        `nn.Embedding`s, `torch.optim.Adam` as it comes, `mm`, `F.cross_entropy`; its batches lie
             ready as id matrices
products     the step's matrix products: forward, gradient of the weights, gradient of the inputs, for
             every linear layer and for the similarity, each into memory that is already there

Targets, in samples a CPU second: recbench at least 2.2 times plain, and at least 0.6 of products.
"""

import argparse
from collections.abc import Callable
from itertools import chain, cycle, repeat
from statistics import median

import torch
import torch.nn.functional as F
from _timing import interleaved, matrix_products, ratio, verdict
from _worlds import HIDDEN, OUTPUT, TEMPERATURE, WIDTH, make_dataset, make_model
from torch import Tensor, nn

from recbench.data.feed.negatives import Negatives
from recbench.data.sets.dataset import Dataset
from recbench.train.trainer import Trainer

FIELDS = 8   # on each side


def trainer_step(dataset: Dataset, batch: int, negatives: Negatives | None) -> Callable[[], Tensor]:
    "A call that loads the next batch and trains on it; its loss."
    trainer = Trainer(
        make_model(dataset), dataset, negatives=negatives, batch_size=batch, progress=False
    )
    trainer.model.train()
    batches = chain.from_iterable(repeat(trainer.loader))
    return lambda: trainer.train_step(next(batches))[0]


class PlainTwoTower(nn.Module):
    "The same net as it is often written."

    def __init__(self, buckets: int):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(buckets, WIDTH) for _ in range(2 * FIELDS))
        widths = [FIELDS * WIDTH, *HIDDEN]
        self.towers = nn.ModuleList(
            nn.Sequential(
                *[layer for pair in zip(widths, HIDDEN) for layer in (nn.Linear(*pair), nn.ReLU())],
                nn.Linear(HIDDEN[-1], OUTPUT),
            )
            for _ in range(2)
        )

    def forward(self, ids: Tensor) -> Tensor:
        "Ids [B, 16] of user and item -> loss."
        vectors = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        user, item = (
            F.normalize(tower(torch.cat(side, 1)), dim=1)
            for tower, side in zip(self.towers, (vectors[:FIELDS], vectors[FIELDS:]))
        )
        return F.cross_entropy(torch.mm(user, item.T) / TEMPERATURE, torch.arange(len(ids)))


def id_matrices(dataset: Dataset, batch: int, count: int) -> list[Tensor]:
    "Ids [B, 16] of some batches of events."
    events = dataset.train.columns
    sides = [
        side.singles[events[f"{name}_index"][: count * batch]].long()
        for name, side in (("user", dataset.users), ("item", dataset.items))
    ]
    return list(torch.cat(sides, 1).split(batch))


def plain_step(dataset: Dataset, batch: int, buckets: int) -> Callable[[], Tensor]:
    "A call that trains the plain net on the next id matrix; its loss."
    model, batches = PlainTwoTower(buckets), cycle(id_matrices(dataset, batch, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> Tensor:
        loss = model(next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()
    return step


def products(batch: int) -> Callable[[], None]:
    "A call that multiplies what one step multiplies: both towers and the similarity."
    widths = [FIELDS * WIDTH, *HIDDEN, OUTPUT]
    towers = 2 * [(batch, inputs, outputs) for inputs, outputs in zip(widths, widths[1:])]
    return matrix_products([*towers, (batch, OUTPUT, batch)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("buckets", 100_000), ("batch", 4096), ("steps", 3), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    dataset = make_dataset(FIELDS, args.buckets, users=100_000, items=100_000, events=1_000_000)
    calls = {
        "recbench": trainer_step(dataset, args.batch, None),
        "uncorrected": trainer_step(
            dataset, args.batch, Negatives(kind="in_batch", log_q=False, mask_hits=False)
        ),
        "plain": plain_step(dataset, args.batch, args.buckets),
        "products": products(args.batch),
    }
    took = interleaved(
        {name: lambda call=call: [call() for _ in range(args.steps)] for name, call in calls.items()},
        args.rounds,
    )
    for name, seconds in took.items():
        each = median(seconds) / args.steps
        print(f"{name:12s} {1e3 * each:7.1f} ms a step {args.batch / each:9,.0f} samples a CPU second")
    for name in ("recbench", "uncorrected"):
        verdict(f"{name} / plain", ratio(took, "plain", name), at_least=2.2)
        verdict(f"{name} / products", ratio(took, "products", name), at_least=0.6)


if __name__ == "__main__":
    main()
