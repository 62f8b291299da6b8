"""A training step of DeepFM, DLRM and DCNV2 against the same models of other libraries, installed from
PyPI.

    python benchmarks/rank_step.py [--rounds 5] [--steps 2] [--models DeepFM DLRM DCNV2]

26 features of 100,000 ids, width 16, 13 numbers, batches of 8,192 ready in memory, MLP 256-128-64,
three full cross layers; one thread, CPU time. Every contender is a process of its own, the peers each
in an environment of their own (made once, in the cache folder, about 1 GB each). They take turns, a few
steps each, every other round backwards.

The networks are the same in size and depth, not to the last weight: FuxiCTR gives each number a vector
of its own and so a wider input, Torch-RecHub has a linear map in place of DeepFM's first-order tables.
The peers train all of every table with Adam, recbench the rows of the batch with row-wise Adagrad
inside the backward pass: that is what is compared. FuxiCTR's package has no DeepFM, DLRM or DCNv2, only
their layers, which `rank_peers.py` joins; DLRM has no other peer there.

Targets: samples a CPU second at least 2.5 times the best peer's for DeepFM and DLRM, 1.5 times for
DCNV2; peak memory at most the smallest peer's.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from _timing import verdict

PEERS = {
    "deepctr-torch": ("deepctr-torch==0.3.0", "requests"),
    "torch-rechub": ("torch-rechub==0.9.0",),
    "fuxictr": ("fuxictr==2.3.10", "polars<2"),
    "rectools": ("rectools[torch]==0.19.0",),
}
MODELS = {
    "DeepFM": ("deepctr-torch", "torch-rechub", "fuxictr"),
    "DLRM": ("fuxictr",),
    "DCNV2": ("deepctr-torch", "torch-rechub", "fuxictr"),
}
TIMES = {"DeepFM": 2.5, "DLRM": 2.5, "DCNV2": 1.5}
FOLDER = Path(__file__).parent


def environment(peer: str) -> Path:
    "The Python of a peer's own environment, made when it is not there."
    import torch

    from recbench.core.paths import cache_dir
    place = cache_dir() / "peers" / peer
    python, ready = place / "bin" / "python", place / "ready"
    if not ready.exists():
        print(f"installing {', '.join(PEERS[peer])}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, f"torch=={torch.__version__.split('+')[0]}"], check=True)
        subprocess.run([*install, *PEERS[peer]], check=True)
        ready.touch()
    return python


def model_config(model: str):
    "The workload as a config."
    from rank_peers import HIDDEN, IDS_BY_NAME, NUMBERS_BY_NAME, WIDTH

    from recbench.core.config import ModelConfig
    top = {"hidden_units": list(HIDDEN)}
    group = lambda name, features, kind="DEEP": {
        "group_name": name,
        "feature_names": features,
        "group_type": kind,
    }  # noqa: E731
    settings = {
        "DeepFM": {
            "feature_groups": [
                group("wide", IDS_BY_NAME, "WIDE"),
                group("fm", IDS_BY_NAME),
                group("deep", IDS_BY_NAME + NUMBERS_BY_NAME),
            ],
            "deepfm": {"deep": top},
        },
        "DLRM": {
            "feature_groups": [group("sparse", IDS_BY_NAME), group("dense", NUMBERS_BY_NAME)],
            "dlrm": {
                "dense_mlp": {"hidden_units": [*HIDDEN, WIDTH]},
                "arch_with_sparse": False,
                "final": top,
            },
        },
        "DCNV2": {
            "feature_groups": [group("features", IDS_BY_NAME + NUMBERS_BY_NAME)],
            "dcn_v2": {"cross": {"cross_num": 3, "low_rank": None}, "deep": top, "final": None},
        },
    }[model]
    return ModelConfig(**settings, losses=[{"binary_cross_entropy": {}}])


def recbench_worker(model: str) -> None:
    "recbench as a contender, with the protocol of `rank_peers.py`."
    import torch
    from rank_peers import IDS_BY_NAME, NUMBERS_BY_NAME, ROWS, WIDTH, answer, batches

    from recbench.data.rows.batch import make_batch
    from recbench.data.rows.features import IdFeature, RawFeature
    from recbench.data.rows.table import Table
    from recbench.models import create_model
    from recbench.train.optimizers import dense_optimizer, fuse_tables
    from recbench.train.wrappers import TrainWrapper
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = [
        *(IdFeature(name=name, num_buckets=ROWS, embedding_dim=WIDTH) for name in IDS_BY_NAME),
        *(RawFeature(name=name) for name in NUMBERS_BY_NAME),
    ]
    network = create_model(model_config(model), features, ["label"])
    wrapper = TrainWrapper(network)
    fuse_tables(network, "rowwise_adagrad", 0.02)
    ready = []
    for ids, numbers, labels in batches():
        table = Table(
            len(labels),
            tuple(IDS_BY_NAME),
            ids,
            {},
            tuple(NUMBERS_BY_NAME),
            (1,) * len(NUMBERS_BY_NAME),
            numbers,
        )
        ready.append(make_batch(table))
        ready[-1].labels["label"] = labels
    answer(dense_optimizer(network, 1e-3), lambda place: wrapper(ready[place])[0])


class Contender:
    "A process that takes steps when asked."

    def __init__(self, name: str, model: str):
        command = (
            [sys.executable, __file__, "--worker", model]
            if name == "recbench"
            else [environment(name), FOLDER / "rank_peers.py", name, model]
        )
        unset = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
        environ = {key: value for key, value in os.environ.items() if key not in unset} | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environ,
        )
        self.name, self.seconds, self.peak = name, [], 0.0

    def run(self, steps: int) -> float:
        "CPU seconds a step."
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):
            line = self.process.stdout.readline()  # what a library prints of its own
        if not line: sys.exit(f"{self.name} ended without an answer")
        found = json.loads(line)
        self.peak = found["peak"]
        return found["seconds"] / steps


def compare(model: str, rounds: int, steps: int) -> None:
    "Contenders take turns; rates, ratios and memory."
    from rank_peers import BATCH
    contenders = [Contender(name, model) for name in ("recbench", *MODELS[model])]
    for contender in contenders:
        contender.run(2)  # warm up, and make Adam's moments
    for turn in range(rounds):
        for contender in contenders[:: -1 if turn % 2 else 1]:
            contender.seconds.append(contender.run(steps))
    for contender in contenders:
        contender.process.stdin.close()
        contender.process.wait()
        print(
            f"{model:7s} {contender.name:14s} {BATCH / median(contender.seconds):>9,.0f} samples a CPU "
            f"second, peak {contender.peak:,.0f} MB"
        )
    ours, *peers = contenders
    best = min(peers, key=lambda peer: median(peer.seconds))
    verdict(
        f"{model} against {best.name}",
        median(theirs / mine for theirs, mine in zip(best.seconds, ours.seconds)),
        at_least=TIMES[model],
    )
    verdict(
        f"{model} peak memory against the smallest",
        ours.peak / min(peer.peak for peer in peers),
        at_most=1.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--worker", choices=list(MODELS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker: recbench_worker(options.worker)
    else:
        for model in options.models: compare(model, options.rounds, options.steps)


if __name__ == "__main__":
    main()
