"""CPU time of a training of SASRec until it reaches a hit rate, beside RecTools' SASRec.

    python benchmarks/sasrec_time.py [--dataset movielens-1m] [--target 0.285] [--epochs 60]
        [--our-epochs N] [--ties item_id] [--length 200] [--seed 0] [--steps N] [--enough 2.5]

Leave-last, hit rate@10 of the test over all items, history masked, after every epoch of both. Two
processes of one thread each at the same time, the peer in an environment of its own (made once, in the
cache folder); CPU seconds of training, what evaluation takes not counted on either side. Both have
width 64, two layers and one head, and the softmax over the whole catalogue.

recbench trains as its recipe for the data set says, on whole histories; what came before a position is
not in its softmax. RecTools trains as it does by default (batches of 128 users, Adam at 0.001) on the
newest `--length` items of each user.

The peer ends when it has taken `--enough` times as much as recbench took and has not got there: its
time to the rate is longer than that.

`--steps`: no more than so many steps of the first epoch; printed is what an epoch would take.

Target: at most half of the peer's CPU time.
"""
import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _timing import verdict
from rank_step import environment

from recbench.data.published import load_dataset
from recbench.data.sets.dataset import Dataset
from recbench.evaluate.retrieval import evaluate
from recbench.models import recipe_of, usual_model
from recbench.train import StopAfter, Trainer

PEER = Path(__file__).with_name("sasrec_peer.py")


def write_events(data: Dataset, path: Path) -> None:
    "Training rows in their order, and each user's item of validation and test."
    train, known = data.train.columns, {}
    for name in ("valid", "test"):
        columns = data.split(name).columns
        known[name] = columns["item_index"][columns["user_index"].argsort()].numpy()
    np.savez(path, users=train["user_index"].numpy(), items=train["item_index"].numpy(), **known)


class Clock:
    "Trainer callback: CPU seconds of training, and the test's hit rate after each epoch."

    def __init__(self, data: Dataset, target: float, steps: int | None):
        self.data, self.target, self.steps = data, target, steps
        self.seconds, self.lines = 0.0, []

    def on_start(self, trainer: Trainer) -> None: self.began = time.process_time()

    def on_validate(self, trainer: Trainer) -> None:
        self.seconds += time.process_time() - self.began

    def on_epoch(self, trainer: Trainer, epoch: int, metrics: dict) -> None:
        about = {"epoch": epoch, "seconds": self.seconds, "loss": trainer.history[-1]["loss"]}
        if self.steps:
            whole = len(trainer.loader) / trainer.step
            self.lines.append(about | {"seconds": self.seconds * whole, "hit_rate": 0.0})
            return trainer.stop("steps")
        found = evaluate(trainer.model, self.data, [10]).values["hit_rate@10"].mean()
        self.lines.append(about | {"hit_rate": float(found)})
        print("recbench", self.lines[-1], flush=True)
        if found >= self.target: trainer.stop("target")
        self.began = time.process_time()


def ours(data: Dataset, options: argparse.Namespace) -> list[dict]:
    "Epochs of recbench's SASRec until the target; of a few steps what an epoch would take."
    recipe = recipe_of("SASRec", data.name)
    recipe = recipe.with_own(epochs=options.our_epochs, patience=options.our_epochs or recipe.epochs)
    few = [StopAfter(steps=options.steps)] if options.steps else []
    clock = Clock(data, options.target, options.steps)
    shown = replace(data, valid=data.valid.take(torch.arange(10)))       # the test is looked at instead
    model = usual_model("SASRec", shown, recipe, options.seed)
    callbacks = [*few, clock]
    Trainer(model, shown, recipe=recipe, seed=options.seed, callbacks=callbacks, progress=False).fit()
    return clock.lines


def peer(events: Path, options: argparse.Namespace) -> subprocess.Popen:
    "RecTools at work."
    settings = {"target": options.target, "epochs": options.epochs, "seed": options.seed,
                "steps": options.steps, "n_factors": 64, "n_heads": 1,
                "session_max_len": options.length}
    command = [environment("rectools"), PEER, events, json.dumps(settings)]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)


def lines_of(other: subprocess.Popen, enough: float) -> list[dict]:
    "What the peer says of its epochs, until it ends or has taken more CPU seconds than `enough`."
    lines = []
    for text in other.stdout:
        lines.append(json.loads(text))
        print("rectools", lines[-1], flush=True)
        if lines[-1]["seconds"] > enough: other.terminate()
    if other.wait() and lines[-1:] and lines[-1]["seconds"] <= enough or not lines:
        raise SystemExit(f"the peer ended with {other.returncode}")
    return lines


def told(name: str, lines: list[dict], target: float) -> float:
    "The last line in words; its CPU seconds."
    last = lines[-1]
    end = "reached" if last["hit_rate"] >= target else "best before the end"
    rate = max(line["hit_rate"] for line in lines)
    each = last["seconds"] / last["epoch"]
    print(f"{name:9s} {last['seconds']:8.1f} CPU s, {last['epoch']} epochs of {each:.1f} s, "
          f"loss {last['loss']:.3f}, hit rate@10 {rate:.4f} {end}")
    return last["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="movielens-1m")
    parser.add_argument("--ties", help="of load_dataset, such as item_id")
    parser.add_argument("--target", type=float, default=0.285)
    parser.add_argument("--epochs", type=int, default=60, help="of the peer, at most")
    parser.add_argument("--our-epochs", type=int, help="of the schedule; the recipe's")
    parser.add_argument("--length", type=int, default=200, help="items of a user that the peer reads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--enough", type=float, default=2.5, help="times our CPU seconds, then it ends")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(options.dataset, **({"ties": options.ties} if options.ties else {}))
    print(data)
    with tempfile.TemporaryDirectory() as folder:
        write_events(data, Path(folder, "events.npz"))
        other = peer(Path(folder, "events.npz"), options)
        mine = ours(data, options)
        theirs = lines_of(other, options.enough * mine[-1]["seconds"])
    seconds = [told(name, lines, options.target) for name, lines in
               (("recbench", mine), ("rectools", theirs))]
    what = "seconds an epoch" if options.steps else "seconds to the rate"
    verdict(what, seconds[0] / seconds[1], at_most=0.5, kind="of the peer's")


if __name__ == "__main__": main()
