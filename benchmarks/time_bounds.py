"""What bounds recall on MovieLens-1M after a date: the popularity of the test period itself, several
seeds as one, and lists of 50 for users with more likes than that.

    python benchmarks/time_bounds.py [--seeds 0 1 2] [--folder runs/blends]

DSSM of its recipe (`LASTING`) is trained on all rows before the date, as `blends.py --rows all` does
it, whose trainings in the folder are taken. The third line reads the answers: no model can have it, it
tells how much a better guess of what will be popular could add at most.
"""

import argparse
from pathlib import Path

import torch
from blends import METRICS, data_of, late, trained
from torch import Tensor

from recbench.data import Dataset
from recbench.evaluate import RecentPrior, evaluate


class MeanScores:
    "Several models as one: the mean of their scores."

    def __init__(self, models: list): self.models = models

    def score_rows(self, dataset: Dataset, split: str, rows: Tensor) -> Tensor:
        return torch.stack([one.score_rows(dataset, split, rows) for one in self.models]).mean(0)


def told(model: RecentPrior, data: Dataset) -> RecentPrior:
    "The same model with the popularity of the test rows in place of the last week's."
    items, overall = data.test.columns["item_index"], data.item_counts
    counts = torch.bincount(items, minlength=len(data.items)) / len(items)
    share = 0.9 * counts * overall.sum() / overall.clamp(min=1) + 0.1
    found = RecentPrior(model.model, data, half_life=1.0)
    found.item_vectors[:, -1] = model.model.temperature * share.log().float()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/blends"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = data_of("all")
    fitted = [trained(data, "all", seed, options.folder)[0] for seed in options.seeds]
    models = [late(one, data, "train") for one in fitted]
    likes = torch.bincount(data.test.columns["user_index"])
    most = (likes[likes > 0].clamp(max=50) / likes[likes > 0]).mean()
    forms = {
        "without recent popularity": models[0].model,
        "popularity of the last week": models[0],
        "popularity of the test period": told(models[0], data),
        f"mean of {len(models)} seeds": MeanScores(models),
    }
    for name, form in forms.items():
        values = evaluate(form, data, (10, 50), name=name).values[METRICS].mean()
        print(f"{name:30s} {values.round(4).to_dict()}", flush=True)
    print(f"every list right: recall@50 {most:.4f}")


if __name__ == "__main__":
    main()
