"""What the number of rows a table costs a training step of a DSSM through the Trainer.

    python benchmarks/table_growth.py [--fields 2] [--small 10000] [--large 10000000] [--batch 4096]
        [--steps 3] [--rounds 9]

The step of dssm_step.py with fewer tables, so that the large ones fit: `fields` on each side. Both
sizes see as many users, items and events, with ids uniform over the rows; CPU time of one thread, the
sizes taking turns.

step     load, forward, backward, update, with towers 256-128-64 and in-batch negatives
tables   only what the tables do of it: look up every id, and update every row that was looked up

Target: the step with large tables at most 1.3 times the step with small ones.
"""

import argparse
from collections.abc import Callable
from itertools import chain, cycle, repeat
from statistics import median

import torch
from _timing import interleaved, ratio, verdict
from _worlds import make_dataset, make_model

from recbench.train.trainer import Trainer


def steps(fields: int, buckets: int, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    "Calls that do a whole training step, and only its tables' part."
    dataset = make_dataset(fields, buckets, users=100_000, items=100_000, events=1_000_000)
    trainer = Trainer(make_model(dataset), dataset, batch_size=batch, progress=False)
    trainer.model.train()
    batches = chain.from_iterable(repeat(trainer.loader))
    ready = cycle([next(batches) for _ in range(32)])
    groups = [tower.embedding_group for tower in (trainer.model.user_tower, trainer.model.item_tower)]

    def step() -> None:
        trainer.train_step(next(batches))

    def tables() -> None:
        batch = next(ready)
        for group in groups: torch.cat(list(group(batch).values())).sum().backward()
    return step, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("fields", 2),
        ("small", 10_000),
        ("large", 10_000_000),
        ("batch", 4096),
        ("steps", 3),
        ("rounds", 9),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    calls = {}
    for rows in (args.small, args.large):
        calls[f"step {rows:,}"], calls[f"tables {rows:,}"] = steps(args.fields, rows, args.batch)
    took = interleaved(
        {name: lambda call=call: [call() for _ in range(args.steps)] for name, call in calls.items()},
        args.rounds,
    )
    for name, seconds in took.items(): print(f"{name:20s} {1e3 * median(seconds) / args.steps:8.2f} ms")
    print(f"tables: {ratio(took, f'tables {args.large:,}', f'tables {args.small:,}'):.2f} times")
    verdict(
        f"step {args.large:,} / {args.small:,} rows",
        ratio(took, f"step {args.large:,}", f"step {args.small:,}"),
        at_most=1.3,
    )


if __name__ == "__main__":
    main()
