"""TDM on MovieLens-1M (leave-last-out, full catalogue): what a beam finds of what scoring every leaf
finds, and what it costs.

    python benchmarks/tdm_beam.py [--steps 300 2500] [--batch-size 64] [--test-rows 6040] [--seed 0]
        [--save FILE]

Item vectors begin as a factorisation of which films are watched near each other. A tree by genre and
year, training on it, a tree by k-means of the item vectors learnt, and training on that one. The width
of the beam is the least one, of those under a tenth of the nodes, with which 0.97 of the exact first
ten are found on validation rows; with it test rows are searched, and every leaf is scored with the same
model. Printed are, for each width, the nodes scored for a user, their share of all nodes and of the
leaves, the share of the exact first k that is found (agreement), recall by beam and by every leaf and
their ratio; then the recall of popularity and EASE on all test rows.

Target: recall@10 of the beam at least 0.95 of every leaf's, with under a tenth of the nodes.
"""

import argparse
import time

import torch
from _timing import verdict

from recbench.core.config import ModelConfig
from recbench.data import Dataset, TDMLoader, category_tree, cluster_tree, load_dataset, tree_features
from recbench.data.feed.near_items import near_vectors
from recbench.evaluate import EASE, Popularity, beam_report, evaluate
from recbench.models import TDM
from recbench.models.tdm import item_vectors, on_tree, with_vectors
from recbench.train import Trainer
from recbench.train.schedules import CosineAnnealing, LearningRate
from recbench.train.tasks import default_layers

WINDOWS, DIM = [1, 1, 2, 4, 8], 32
BEAMS = [8, 16, 24, 32, 48, 64]


def first_model(data: Dataset, seed: int) -> TDM:
    "The untrained model on a tree by first genre and year."
    tree = category_tree(
        (
            data.item_frame["genres"].str[0].fillna("") + data.item_frame["release_year"].fillna("")
        ).to_numpy(str)
    )
    features = [
        feature.model_copy(
            update={"embedding_dim": 8 if feature.name == "tree_level" else DIM, "init_std": 0.1}
        )
        for feature in tree_features(data.features(), "item_id", tree)
    ]
    groups = [
        {"group_name": "node", "feature_names": ["tree_level"]},
        {"group_name": "seq", "feature_names": ["item_id", "history"], "group_type": "SEQUENCE"},
    ]
    settings = {
        "newest_first": True,
        "multiwindow_din": {"windows_len": WINDOWS, "attn_mlp": {"hidden_units": [16]}},
        "final": {"hidden_units": [64, 32]},
    }
    torch.manual_seed(seed)
    model = TDM(
        ModelConfig(feature_groups=groups, losses=[{"binary_cross_entropy": {}}], tdm=settings),
        features,
        ["label"],
        tree=tree,
    )
    return with_vectors(model, data, near_vectors(data, DIM))


def train(
    model: TDM,
    data: Dataset,
    steps: int,
    batch_size: int,
    seed: int,
    inner: int,
    leaves: int,
    rate: float,
) -> None:
    "So many steps, the rate falling along a cosine."
    loader = TDMLoader(
        data,
        model.tree,
        default_layers(model.tree, inner, leaves),
        batch_size,
        seed=seed,
        features=model.read_features,
    )
    falling = LearningRate(CosineAnnealing(T_max=steps, min_learning_rate=rate / 50))
    start = time.process_time()
    trainer = Trainer(
        model,
        data,
        loader=loader,
        steps=steps,
        learning_rate=rate,
        table_optimizer="adam",
        top_k=[10, 50],
        callbacks=[falling],
        progress=False,
        seed=seed,
    )
    history = trainer.fit()
    print(
        f"{steps} steps of {batch_size} events with "
        f"{sum(loader.sampler.counts) + model.tree.levels - 1} nodes: "
        f"{time.process_time() - start:.0f} CPU-s, loss {history['loss'].iloc[-1]:.4f}, valid "
        f"recall@10 {history['recall@10'].iloc[-1]:.4f} by a beam of {trainer.task.beam}",
        flush=True,
    )


def choose(model: TDM, data: Dataset, rows: torch.Tensor) -> int:
    """The least width that nearly agrees with every leaf on validation rows, or the greatest that is
    cheap enough.
    """
    report = beam_report(model, data, BEAMS, [10], "valid", rows).drop(index="every leaf")
    cheap = report[report["share of nodes"] < 0.1]
    good = cheap[cheap["agreement@10"] >= 0.97]
    print(f"\nvalidation, {len(rows)} rows\n{report.round(4).to_string()}", flush=True)
    return int(good.index[0] if len(good) else cheap.index[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, nargs=2, default=[300, 2500])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--inner", type=int, default=6)
    parser.add_argument("--leaves", type=int, default=30)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--test-rows", type=int, default=6040)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", help="keep the trained weights in this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("movielens-1m", max_history=sum(WINDOWS), max_recent=0)
    model = first_model(data, options.seed)
    settings = (options.batch_size, options.seed, options.inner, options.leaves, options.rate)
    train(model, data, options.steps[0], *settings)
    model = on_tree(model, data, cluster_tree(item_vectors(model, data)))
    train(model, data, options.steps[1], *settings)
    if options.save:
        torch.save(
            {"codes": model.tree.codes[model.tree.node_of_item], "state": model.state_dict()},
            options.save,
        )
    some = torch.randperm(len(data.valid), generator=torch.Generator().manual_seed(0))[:500]
    beam = choose(model, data, some)
    start = time.process_time()
    rows = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(1))[
        : options.test_rows
    ]
    report = beam_report(model, data, [beam // 2, beam], [10, 20, 50], rows=rows)
    print(
        f"\ntest, {len(rows)} of {len(data.test)} rows, {len(model.tree)} nodes in levels of "
        f"{model.tree.level_sizes}; {time.process_time() - start:.0f} CPU-s\n"
        f"{report.round(4).T.to_string()}\n",
        flush=True,
    )
    for name, floor in (("popularity", Popularity()), ("EASE, l2 500", EASE(500.0))):
        found = evaluate(floor.fit(data.interactions("train")), data, [10, 20, 50], name=name)
        print(f"{name}: {found.mean().filter(like='recall').round(4).to_dict()}")
    verdict(
        f"beam {beam}: recall@10 against every leaf",
        report.loc[beam, "of exact recall@10"],
        at_least=0.95,
    )
    verdict(
        f"beam {beam}: share of the nodes that are scored",
        report.loc[beam, "share of nodes"],
        at_most=0.1,
        kind="share",
    )


if __name__ == "__main__":
    main()
