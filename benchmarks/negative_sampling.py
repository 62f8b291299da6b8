"""What drawing shared negatives costs, beside the training step that needs them.

    python benchmarks/negative_sampling.py [--items 1000000] [--batch 8192] [--num-sample 1024]
        [--rounds 7]

The DSSM of dssm_step.py on 100,000 users with ten events each, and a catalogue of a million items;
float32, CPU time of one thread, the contenders taking turns. Weights are random numbers, so that every
item can be drawn.

shared       `NegativeSampler.sample`: 1,024 weighted negatives for all of the batch's 8,192 rows
known        `NegativeSamplerV2.sample`: the same, and which of them each row's user knows
sampled      a step of the `Trainer` with 1,024 sampled negatives: loading, draw, forward, backward,
             update
in-batch     the step of dssm_step.py, with the batch's own positives as negatives

Target: a draw costs at most 0.05 of a step, also of the cheaper one.
"""

import argparse
from itertools import chain, repeat
from statistics import median

import torch
from _timing import interleaved, ratio, verdict
from _worlds import make_dataset, make_model

from recbench.data import Negatives, NegativeSampler, NegativeSamplerV2
from recbench.train.trainer import Trainer

DRAWS = 10   # in a row, so that the clock sees more than its own grain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("items", 1_000_000), ("batch", 8192), ("num-sample", 1024), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    dataset, weights = make_dataset(
        8, 100_000, users=100_000, items=args.items, events=1_000_000
    ), torch.rand(args.items, generator=torch.Generator().manual_seed(0))
    events, rows = (
        dataset.train.columns,
        torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[: args.batch],
    )
    samplers = NegativeSampler(weights, args.num_sample), NegativeSamplerV2(
        weights, dataset.consumed("train"), args.num_sample
    )

    def step(kind: str):
        trainer = Trainer(
            make_model(dataset, kind == "in_batch"),
            dataset,
            negatives=Negatives(kind=kind, num_sample=args.num_sample),
            batch_size=args.batch,
            progress=False,
        )
        trainer.model.train()
        batches = chain.from_iterable(repeat(trainer.loader))
        return lambda: trainer.train_step(next(batches))

    def draws(sampler, key: str):
        return lambda: [sampler.sample(events[key][rows]) for _ in range(DRAWS)]

    took = interleaved(
        {
            "shared": draws(samplers[0], "item_index"),
            "known": draws(samplers[1], "user_index"),
            "sampled": step("sampled"),
            "in-batch": step("in_batch"),
        },
        args.rounds,
    )
    for name in ("shared", "known"): took[name] = [seconds / DRAWS for seconds in took[name]]
    for name, seconds in took.items(): print(f"{name:10s} {1e3 * median(seconds):8.2f} ms")
    for name in ("shared", "known"):
        for whole in ("sampled", "in-batch"):
            verdict(f"{name} / {whole} step", ratio(took, name, whole), at_most=0.05)


if __name__ == "__main__":
    main()
