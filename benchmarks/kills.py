"""Kill -9 at any moment: trainings that are killed again and again must end with the numbers of one
that nobody touched.

    python benchmarks/kills.py [--kills 50] [--kills-a-run 5] [--seed 0]

A small two-tower model trains on a planted world with everything that has a state: dropout, drawn
negatives, windowed train metrics, a learning-rate schedule, an average of the weights, accumulated
gradients. Half of the kills come at a random moment of the training, the other half at a random one of
its file operations (open, rename, delete, ...), so that they fall into the writing of descriptions,
metrics and checkpoints; some of these leave a half-written tensor file as well. The next process
resumes, until a run has had its kills and may end.

Targets: every kill is followed by a resume that loses no more than one interval of checkpoints; the
history, every loss of every step and every bit of the weights at the end equal those of the unbroken
run.
"""

import argparse
import hashlib
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch
from _timing import verdict

from recbench.core.config import (
    DSSMConfig,
    FeatureGroup,
    Loss,
    MLPConfig,
    ModelConfig,
    RecallAtKConfig,
    SoftmaxCrossEntropyConfig,
    Tower,
    TrainMetric,
)
from recbench.data.feed.negatives import Negatives
from recbench.data.published.planted import planted
from recbench.data.sets.dataset import Dataset
from recbench.models.dssm import DSSM
from recbench.train import ExponentialAverage, ExponentialDecay, LearningRate, Trainer
from recbench.train.checkpoint import TENSORS, TREE

EVERY = 4   # steps between two checkpoints


class Progress:
    "Tells the parent, through shared memory, where the child began and where it is."

    def __init__(self, memory: mmap.mmap): self.memory = memory

    def on_start(self, trainer) -> None: self.memory[:17] = trainer.step.to_bytes(8) * 2 + b"\1"

    def on_step(self, trainer, step: int, loss) -> None: self.memory[8:16] = step.to_bytes(8)


def make_trainer(folder: Path, dataset: Dataset, memory: mmap.mmap) -> Trainer:
    "A training with as many kinds of state as there are."
    towers = {
        f"{side}_tower": Tower(input=side, mlp=MLPConfig(hidden_units=[16], dropout_ratio=[0.2]))
        for side in ("user", "item")
    }
    config = ModelConfig(
        feature_groups=[
            FeatureGroup(
                group_name=side, feature_names=[feature.name for feature in dataset.features(side)]
            )
            for side in ("user", "item")
        ],
        dssm=DSSMConfig(
            **towers, output_dim=8, similarity="COSINE", temperature=0.1, in_batch_negative=True
        ),
        losses=[Loss(softmax_cross_entropy=SoftmaxCrossEntropyConfig())],
        train_metrics=[TrainMetric(recall_at_k=RecallAtKConfig(top_k=5), decay_step=5)],
    )
    torch.manual_seed(1)
    return Trainer(
        DSSM(config, dataset.features(), []),
        dataset,
        negatives=Negatives(kind="mixed", num_sample=32),
        batch_size=256,
        epochs=6,
        patience=6,
        accumulate=3,
        callbacks=[
            LearningRate(ExponentialDecay(decay_size=10, decay_factor=0.9)),
            ExponentialAverage(0.95),
            Progress(memory),
        ],
        progress=False,
        run_dir=folder,
        save_every_steps=EVERY if folder else None,
    )


def die_at_operation(folder: Path, number: int, tear: random.Random) -> None:
    """Kill this process at its n-th file operation inside the folder.

    Now and then leave half of a tensor file behind.
    """
    left = [number]

    def hook(event: str, arguments: tuple) -> None:
        if not (event == "open" or event.startswith(("os.", "shutil."))) or not any(
            str(part).startswith(str(folder)) for part in arguments
        ):
            return
        left[0] -= 1
        if left[0]: return
        half = Path(str(arguments[0])).with_name(TENSORS)
        if Path(str(arguments[0])).name == TREE and half.exists():
            os.truncate(half, tear.randrange(half.stat().st_size))
        os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def train(
    folder: Path, result: Path, dataset: Dataset, memory: mmap.mmap, operation: int | None, seed: int
) -> None:
    "In a child: train, and leave a fingerprint of all numbers where the run ends."
    if operation: die_at_operation(folder, operation, random.Random(seed))
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        trainer = make_trainer(folder, dataset, memory)
        trainer.fit()
    weights = hashlib.sha256(
        b"".join(value.numpy().tobytes() for value in trainer.model.state_dict().values())
    ).hexdigest()
    history = [
        {name: value for name, value in row.items() if name != "seconds"} for row in trainer.history
    ]
    result.write_text(
        json.dumps(
            {
                "weights": weights,
                "history": history,
                "best_epoch": trainer.best_epoch,
                "steps": (folder / "steps.jsonl").read_text(),
            }
        )
    )


def child(
    folder: Path,
    result: Path,
    dataset: Dataset,
    seconds: float | None = None,
    operation: int | None = None,
    seed: int = 0,
) -> tuple[bool, tuple[int, int] | None]:
    """Train in a process of its own, kill it after some seconds or at a file operation.

    Was it killed, and its first and last step if it got as far as that.
    """
    memory = mmap.mmap(-1, 17)
    process = os.fork()
    if not process:
        try:
            train(folder, result, dataset, memory, operation, seed)
        except BaseException as error:
            print(f"child failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a training failed, see above")
    return os.WIFSIGNALED(status), (
        (int.from_bytes(memory[:8]), int.from_bytes(memory[8:16])) if memory[16] else None
    )


def killed_run(
    folder: Path, result: Path, dataset: Dataset, kills: int, seconds: float, rng: random.Random
) -> tuple[list[str], list[int]]:
    """One run through up to so many kills.

    What each was, and the steps that had to be done again after each.
    """
    kinds: list[str] = []
    again: list[int] = []
    reached = 0
    while not result.exists():
        kind = "end" if len(kinds) == kills else rng.choice(("moment", "file operation"))
        killed, steps = child(
            folder,
            result,
            dataset,
            rng.uniform(0.01, seconds) if kind == "moment" else None,
            rng.randrange(1, 400) if kind == "file operation" else None,
            rng.randrange(2**32),
        )
        if steps:
            if kinds: again.append(reached - steps[0])
            reached = steps[1]
        if killed:
            kinds.append(
                kind
                + (", checkpoint half written" if any(folder.glob("checkpoints/.checkpoint-*")) else "")
            )
    return kinds, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kills-a-run", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset, rng = planted(users=200, items=1000, seed=0), random.Random(args.seed)
    kinds, again, equal, number = [], [], 0, 0
    with tempfile.TemporaryDirectory() as home:
        start = time.perf_counter()
        child(Path(home, "unbroken"), Path(home, "unbroken.json"), dataset)
        seconds, unbroken = time.perf_counter() - start, json.loads(
            Path(home, "unbroken.json").read_text()
        )
        while len(kinds) < args.kills:
            number += 1
            result = Path(home, f"{number}.json")
            new_kinds, new_again = killed_run(
                Path(home, f"run{number}"),
                result,
                dataset,
                min(args.kills_a_run, args.kills - len(kinds)),
                seconds,
                rng,
            )
            kinds, again, same = (
                kinds + new_kinds,
                again + new_again,
                json.loads(result.read_text()) == unbroken,
            )
            equal += same
            print(
                f"run {number}: killed {len(new_kinds)} times ({'; '.join(new_kinds) or 'never'}), "
                f"steps done again {new_again}, {'equal' if same else 'DIFFERENT'}",
                flush=True,
            )
    print(
        f"unbroken run: {len(unbroken['history'])} epochs, {unbroken['history'][-1]['step']} steps, "
        f"{seconds:.1f} s; a checkpoint every {EVERY} steps and at the end of each epoch"
    )
    print(
        f"{len(kinds)} kills: {sum(kind.startswith('moment') for kind in kinds)} at a random "
        f"moment, {sum(kind.startswith('file') for kind in kinds)} at a file operation, "
        f"{sum('half written' in kind for kind in kinds)} of them with a checkpoint half written or "
        "half deleted; all resumed"
    )
    verdict("steps lost by a kill", max(again, default=0), at_most=EVERY, kind="most")
    verdict(
        "runs that end with the numbers of the unbroken one", equal / number, at_least=1, kind="share"
    )


if __name__ == "__main__":
    main()
