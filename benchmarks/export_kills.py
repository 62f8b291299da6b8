"""Kill -9 during an export, at any moment: the folder is absent or whole.

    python benchmarks/export_kills.py [--kills 20] [--seed 0]

A small DSSM is exported by forked processes, each killed at a random moment of the time that a whole
export takes. After each kill the folder is not there, or `load_exported` opens it, every hash included;
the last export runs to its end and must find nothing of the others left beside it.
"""
import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import torch
from _timing import verdict

from recbench.data.published.planted import planted
from recbench.export.exported import load_exported
from recbench.export.package import export_model
from recbench.models.usual import usual_model
from recbench.train.runs import Run
from recbench.train.trainer import Trainer


def forked(run: Run, place: Path, seconds: float | None = None) -> float:
    "Seconds of an export in a process of its own, which is killed after so many."
    begun = time.monotonic()
    if not (child := os.fork()):
        export_model(run, place, forms=["export"], progress=False)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    how = os.waitpid(child, 0)[1]
    assert how in (0, signal.SIGKILL), how
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draw, there, rests, torn = random.Random(asked.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as home:
        world, place = planted(users=120, items=90, seed=0), Path(home) / "out"
        model = usual_model("DSSM", world)
        Trainer(model, world, epochs=1, run_dir=f"{home}/run", progress=False).fit()
        run = Run.load(f"{home}/run")
        forked(run, place)
        whole = forked(run, Path(home) / "second")
        for _ in range(asked.kills):
            shutil.rmtree(place, ignore_errors=True)
            forked(run, place, draw.uniform(0, 1.1 * whole))
            rests += bool(list(place.parent.glob(".out*")))
            there += place.exists()
            try: place.exists() and load_exported(place)
            except OSError as error: torn, _ = torn + 1, print(error)
        shutil.rmtree(place, ignore_errors=True)
        forked(run, place)
        load_exported(place)
        left = len(list(place.parent.glob(".out*")))
    print(f"{asked.kills} kills within {whole:.1f} s: {there} folders whole, {asked.kills - there} "
          f"absent, {rests} times something lay beside")
    verdict("folders that were torn", torn, at_most=0, kind="count")
    verdict("left beside after a whole export", left, at_most=0, kind="count")


if __name__ == "__main__": main()
