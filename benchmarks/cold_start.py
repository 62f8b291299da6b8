"""Films without history on MovieLens-1M: DropoutNet beside DSSM, content alone and popularity.

    python benchmarks/cold_start.py [--share 0.2] [--seeds 0 1 2] [--newest 50] [--epochs 6]
        [--models DSSM "DSSM in batch" DropoutNet "content only"]

A share of the films has no training and no validation row (`movielens_1m_cold`), another one for each
seed; the test is each user's last film, ranked among all films. Printed is the recall@50 of the test rows
apart: cold where the film was held out, warm else, for each model and seed, with CPU seconds of its
training, the mean over the seeds, and two ratios: DropoutNet over DSSM for cold films, and for warm ones.
`--newest 0` trains with all ratings of a user instead of the last ones.

Targets: cold ratio at least 1.5, warm ratio at least 0.97.
"""

import argparse
import time

import pandas as pd
import torch
from _timing import verdict

from recbench.data import Negatives
from recbench.data.published.movielens_cold import movielens_1m_cold
from recbench.evaluate import Popularity, evaluate_cold
from recbench.models import create_model, match_config, usual_features
from recbench.models.recipes import MANY_ROWS
from recbench.train import Trainer

MODELS = {
    "DSSM": ("DSSM", {}, "full"),
    "DSSM in batch": ("DSSM", {"in_batch_negative": True}, "in_batch"),
    "DropoutNet": ("DropoutNet", {}, "in_batch"),
    "content only": ("DropoutNet", {}, "in_batch"),
}
RATES = {"item_dropout_rate": 0.5, "user_dropout_rate": 0.0}


def recalls(model, data, name: str) -> dict[str, float]:
    "Recall@50 of cold and of warm test rows."
    table = evaluate_cold(model, data, "item", [50], edges=[1], baselines=False, name=name, draws=10)
    table = table[[metric.startswith("recall") for metric in table.index.get_level_values("metric")]]
    values = dict(zip(table.index.get_level_values(0), table[name, "value"]))
    return {"cold": values["0"], "warm": values["1+"]}


def trained(name: str, data, seed: int, epochs: int, rates: dict[str, float]):
    "A model of the table above, trained."
    kind, choices, negatives = MODELS[name]
    features = usual_features(kind, data, MANY_ROWS)
    if name == "content only": features = [one for one in features if one.name != "item_id"]
    own = rates if kind == "DropoutNet" else {}
    config = match_config(kind, data, features, share_embedding=True, **choices, **own)
    torch.manual_seed(seed)
    model = create_model(config, features, ["label"])
    drawn = Negatives(kind=negatives)
    Trainer(model, data, recipe=MANY_ROWS, epochs=epochs, negatives=drawn, seed=seed, progress=False).fit()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--newest", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    for rate, usual in RATES.items(): parser.add_argument(f"--{rate.replace('_', '-')}", type=float, default=usual)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rates, found = {name: getattr(asked, name) for name in RATES}, {}
    for seed in asked.seeds:
        data = movielens_1m_cold(asked.share, seed, asked.newest or None)
        print(data, flush=True)
        popular = Popularity().fit(data.interactions("train"))
        found["popularity", seed] = recalls(popular, data, "popularity") | {"CPU seconds": 0.0}
        for name in asked.models:
            start = time.process_time()
            model = trained(name, data, seed, asked.epochs, rates)
            found[name, seed] = {"CPU seconds": time.process_time() - start} | recalls(model, data, name)
            print(name, seed, {key: round(value, 4) for key, value in found[name, seed].items()}, flush=True)
    table = pd.DataFrame(found).T.rename_axis(["model", "seed"])
    means = table.groupby(level="model", sort=False).mean()
    print(table.round(4).to_string(), means.round(4).to_string(), sep="\n\n")
    if {"DSSM", "DropoutNet"} <= {*asked.models}:
        ratio = means.loc["DropoutNet"] / means.loc["DSSM"]
        verdict("recall@50 of cold films, DropoutNet over DSSM", ratio["cold"], at_least=1.5)
        verdict("recall@50 of warm films, DropoutNet over DSSM", ratio["warm"], at_least=0.97)


if __name__ == "__main__": main()
