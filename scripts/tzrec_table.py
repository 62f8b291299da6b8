"""Which configs of TorchEasyRec are read, built and trained here: a line for each file.

    python scripts/tzrec_table.py FOLDER [--steps 3] [--rows 3000]

Rows are generated, and tables have at most `--rows` rows, so that every config fits into memory. The
last column is the first line of the error where one stops, else the number of fields that
`tzrec_report` lists.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

from recbench.core.pipeline import PipelineConfig
from recbench.interop import read_tzrec_config, tzrec_report
from recbench.train.build import build

SIZES = ("num_buckets", "hash_bucket_size")


def smaller(value: Any, rows: int = 3000) -> Any:
    "The same with at most so many rows a table."
    if isinstance(value, list): return [smaller(part, rows) for part in value]
    if not isinstance(value, dict): return value
    return {
        name: min(part, rows) if name in SIZES and part else smaller(part, rows)
        for name, part in value.items()
    }


def tried(path: Path, steps: int, rows: int) -> tuple[str, str]:
    "How far a config comes, and what is said of it."
    done = "-"
    try:
        pipeline = PipelineConfig.from_dict(smaller(read_tzrec_config(path).to_dict(), rows))
        done = "read"
        trainer = build(pipeline, progress=False).trainer
        done, taken = "built", 0
        trainer.model.train()
        while taken < steps:
            for batch in trainer.loader:
                if taken == steps: break
                trainer.train_step(batch)
                taken += 1
            trainer.loader.next_epoch()
    except ValueError as error: return done, " ".join(str(error).split())[:110]
    return "trained", f"{len(tzrec_report(path))} fields in its report"


def main() -> None:
    "Print the table of a folder."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    paths, counts = sorted(options.folder.glob("*.config")), {"trained": 0}
    if not paths: raise SystemExit(f"{options.folder} has no *.config")
    for path in paths:
        start = time.perf_counter()
        done, said = tried(path, options.steps, options.rows)
        counts[done] = counts.get(done, 0) + 1
        print(f"{path.stem:28} {done:8} {time.perf_counter() - start:5.1f} s  {said}")
    print(f"{counts['trained']} of {len(paths)} trained {options.steps} steps")


if __name__ == "__main__": main()
