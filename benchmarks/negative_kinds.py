"""Every kind of negatives at 10,000 and at 1,000,000 items: CPU time of a batch, and of DSSM's step.

    python benchmarks/negative_kinds.py [--items 10000 1000000] [--rows 1024] [--steps 20]

Events are generated, Zipf over the items, a third of them dislikes for the hard kinds. All kinds but
the whole catalogue shall cost the same at both sizes. What a step of the whole catalogue costs is
measured on a part of it and extrapolated before it is run.
"""
import argparse
import time

import numpy as np
import pandas as pd
import torch

from recbench.data.feed.negatives import Negatives
from recbench.data.sets.dataset import Dataset
from recbench.data.sets.own import dataset_from_frames
from recbench.explore.footprint import softmax_seconds
from recbench.models.usual import usual_model
from recbench.train.trainer import Trainer

KINDS = ("in_batch", "sampled", "sampled_v2", "hard", "hard_v2", "mixed", "full")


def world(items: int, rows: int = 100_000, users: int = 5_000) -> Dataset:
    "Generated likes and dislikes over a catalogue of this size."
    rng = np.random.default_rng(0)
    weights = (1 / (np.arange(items) + 10)).cumsum()
    events = pd.DataFrame({
        "user_id": rng.integers(0, users, rows),
        "item_id": np.searchsorted(weights, rng.random(rows) * weights[-1]).clip(max=items - 1),
        "timestamp": np.arange(rows), "rating": rng.integers(1, 4, rows),
    })
    catalogue = pd.DataFrame({"item_id": np.arange(items)})
    return dataset_from_frames(
        events, items=catalogue, name=f"{items:,} items", label="rating", min_label=2, verbose=False
    )


def milliseconds(data: Dataset, negatives: Negatives, rows: int, steps: int) -> tuple[float, float]:
    "Median CPU milliseconds of drawing a batch, and of a training step with it."
    own = negatives.layout in ("in_batch", "mixed")
    model = usual_model("DSSM", data, in_batch_negative=own)
    settings = dict(batch_size=rows, negatives=negatives, steps=1, progress=False)
    trainer = Trainer(model, data, **settings)
    batches, drawn, stepped = iter(trainer.loader), [], []
    model.init_loss()
    for _ in range(steps):
        start = time.process_time()
        batch = next(batches)
        middle = time.process_time()
        trainer.train_step(batch)
        drawn.append(middle - start), stepped.append(time.process_time() - middle)
    return 1000 * float(np.median(drawn)), 1000 * float(np.median(stepped))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", nargs="+", type=int, default=[10_000, 1_000_000])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--most-seconds", type=float, default=20, help="dearer steps are only told")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'kind':12s} {'items':>10s} {'batch ms':>9s} {'step ms':>9s}")
    for items in args.items:
        data = world(items)
        for kind in KINDS:
            steps = args.steps
            if kind == "full":
                told, steps = softmax_seconds(args.rows, items, 64), 2
                line = f"loss of a step, as told: {1000 * told:.1f} ms"
                print(f"{kind:12s} {items:10,d} {line}", flush=True)
                if told * steps > args.most_seconds: continue
            kinds = {} if kind == "full" else {"num_sample": 1024}
            found = milliseconds(data, Negatives(kind=kind, **kinds), args.rows, steps)
            print(f"{kind:12s} {items:10,d} {found[0]:9.2f} {found[1]:9.1f}", flush=True)


if __name__ == "__main__": main()
