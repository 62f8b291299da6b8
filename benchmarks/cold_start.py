"""Films without history on MovieLens-1M: DropoutNet beside DSSM, content alone and popularity.

    python benchmarks/cold_start.py [--share 0.2] [--seeds 0 1 2] [--newest 50] [--epochs 6]
        [--models "DSSM full" "DSSM in batch" DropoutNet "content only"] [--item-dropout-rate 0.1]

A share of the films has no training and no validation row (`movielens_1m_cold`), another one for each
seed; the test is each user's last film, ranked among all films. Printed is the recall@50 of the test
rows apart: cold where the film was held out, warm else, for each model and seed, with CPU seconds of
its training, and the means over the seeds. "DropoutNet 95 %" is the same trained model with the
length of unknown films' vectors chosen on the validation rows, which are all warm: the largest length
that keeps 95 % of the recall that these rows would have without any unknown film in the catalogue.

DSSM full learns against the whole catalogue, held-out films included, DSSM in batch against the films
of the batch, as DropoutNet does. `--newest 0` trains with all ratings of a user, not the last ones.

Targets: cold recall of DropoutNet at least 1.5 times that of each DSSM, warm at least 0.97 times.
"""

import argparse
import time

import pandas as pd
import torch
from _timing import verdict

from recbench.data import Negatives
from recbench.data.published.movielens_cold import movielens_1m_cold
from recbench.evaluate import Popularity, evaluate, evaluate_cold
from recbench.models import create_model, match_config, usual_features
from recbench.models.recipes import MANY_ROWS
from recbench.train import Trainer

MODELS = {
    "DSSM full": ("DSSM", {}, "full"),
    "DSSM in batch": ("DSSM", {"in_batch_negative": True}, "in_batch"),
    "DropoutNet": ("DropoutNet", {}, "in_batch"),
    "content only": ("DropoutNet", {}, "in_batch"),
}
RATES = {"item_dropout_rate": 0.1, "user_dropout_rate": 0.0}
LENGTHS, KEPT = [1 - step / 40 for step in range(13)], (0.99, 0.97, 0.95, 0.93)


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
    model, drawn = create_model(config, features, ["label"]), Negatives(kind=negatives)
    Trainer(
        model, data, recipe=MANY_ROWS, epochs=epochs, negatives=drawn, seed=seed, progress=False
    ).fit()
    return model


def weighed(model, data) -> dict[str, dict[str, float]]:
    "Recalls at lengths of unknown films' vectors chosen by the validation rows, by the share kept."
    def valid(length: float) -> float:
        model.item_tower.unknown_weight = length
        return evaluate(model, data, [50], "valid").mean()["recall@50"]

    alone, found, seen = valid(1e-6), {}, {length: valid(length) for length in LENGTHS}
    for kept in KEPT:
        fits = (length for length, recall in seen.items() if recall >= kept * alone)
        model.item_tower.unknown_weight = length = next(fits, LENGTHS[-1])
        found[f"DropoutNet {kept:.0%}"] = recalls(model, data, "DropoutNet") | {"length": length}
    return found


def run(asked: argparse.Namespace) -> pd.DataFrame:
    "A row for each model and seed."
    rates, found = {name: getattr(asked, name) for name in RATES}, {}
    for seed in asked.seeds:
        data = movielens_1m_cold(asked.share, seed, asked.newest or None)
        print(data, flush=True)
        popular = Popularity().fit(data.interactions("train"))
        found["popularity", seed] = recalls(popular, data, "popularity")
        for name in asked.models:
            start = time.process_time()
            model = trained(name, data, seed, asked.epochs, rates)
            seconds = {"CPU seconds": time.process_time() - start}
            found[name, seed] = recalls(model, data, name) | seconds
            print(name, seed, found[name, seed], flush=True)
            if name != "DropoutNet": continue
            found |= {(label, seed): values for label, values in weighed(model, data).items()}
            print({label: found[label, seed] for label, one in found if one == seed}, flush=True)
    return pd.DataFrame(found).T.rename_axis(["model", "seed"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--newest", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    for rate, usual in RATES.items():
        parser.add_argument(f"--{rate.replace('_', '-')}", type=float, default=usual)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = run(asked)
    means = table.groupby(level="model", sort=False).mean()
    print(table.round(4).to_string(na_rep=""), means.round(4).to_string(na_rep=""), sep="\n\n")
    for dssm in ("DSSM full", "DSSM in batch"):
        for name in [name for name in means.index if name.startswith("DropoutNet")]:
            if dssm not in means.index: continue
            ratio = means.loc[name] / means.loc[dssm]
            verdict(f"cold recall@50, {name} over {dssm}", ratio["cold"], at_least=1.5)
            verdict(f"warm recall@50, {name} over {dssm}", ratio["warm"], at_least=0.97)


if __name__ == "__main__": main()
