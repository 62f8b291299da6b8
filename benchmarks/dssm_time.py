"""CPU time of a training of DSSM until it reaches a recall of the test, on MovieLens-100K.

    python benchmarks/dssm_time.py [--target 0.38] [--ties item_id] [--seeds 0 1 2]

Leave-last, recall@50 over all films, history masked, looked at after every epoch; CPU seconds of
training, what evaluation takes not counted. It trains as its recipe says, on one thread. Likes of one
second stand by item id, the order in which other tools were trained on these rows; their best figures
stand beside it, of `benchmarks/results/published.json`.
"""
import argparse
import json
import time
from pathlib import Path

import torch

from recbench.data import Dataset, load_dataset
from recbench.data.feed.negatives import Negatives
from recbench.evaluate import evaluate
from recbench.models import recipe_of, usual_model
from recbench.train import Trainer

PUBLISHED = Path(__file__).parent / "results" / "published.json"


class Clock:
    "Trainer callback: CPU seconds of training, and the test's recall@50 after each epoch."

    def __init__(self, data: Dataset, target: float):
        self.data, self.target, self.seconds, self.recall = data, target, 0.0, 0.0

    def on_start(self, trainer: Trainer) -> None: self.began = time.process_time()

    def on_validate(self, trainer: Trainer) -> None:
        self.seconds += time.process_time() - self.began

    def on_epoch(self, trainer: Trainer, epoch: int, metrics: dict) -> None:
        self.recall = float(evaluate(trainer.model, self.data, [50]).values["recall@50"].mean())
        if self.recall >= self.target: trainer.stop("target")
        self.began = time.process_time()


def best_of(tool: str) -> str:
    "The best published recall@50 of a tool that was trained on these rows."
    rows = [one for one in json.loads(PUBLISHED.read_text())
            if one["dataset"] == "movielens-100k P1" and one["model"].startswith(tool)
            and "recall@50" in one["metrics"]]
    if not rows: return f"{tool}: none on record"
    best = max(rows, key=lambda one: one["metrics"]["recall@50"])
    return f"{best['model']}: {best['metrics']['recall@50']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=float, default=0.38)
    parser.add_argument("--ties", default="item_id", help="of load_dataset")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("movielens-100k", ties=options.ties)
    recipe = recipe_of("DSSM", data)
    for seed in options.seeds:
        clock, model = Clock(data, options.target), usual_model("DSSM", data, recipe, seed)
        trainer = Trainer(model, data, recipe=recipe, seed=seed, callbacks=[clock], progress=False,
                          negatives=Negatives(kind="full"))
        trainer.fit()
        end = "reached" if clock.recall >= options.target else "last"
        print(f"seed {seed}: recall@50 {clock.recall:.4f} {end} after {len(trainer.history)} epochs, "
              f"{clock.seconds:.1f} CPU s", flush=True)
    for tool in ("RecBole", "Torch-RecHub", "RecTools"): print("best of", best_of(tool))


if __name__ == "__main__": main()
