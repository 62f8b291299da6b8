"""A finished run as one small JSON file, which `scripts/results.py` makes the page of."""

import json
import re
from pathlib import Path

import pandas as pd

from recbench.evaluate.significance import bootstrap_interval

RUNS = Path(__file__).parent / "results" / "runs"


def record(
    dataset: str, protocol: str, model: str, seed: int | None, values: pd.DataFrame, command: str,
    cpu_seconds: float | None = None, end: str = "", recipe: str = "", folder: Path = RUNS
) -> Path:
    """Write a run's metrics with their intervals over users, its cost and its settings.

    Args:
        dataset: as in the benchmark's table
        protocol: of the data set
        model: name, or that of a baseline
        seed: None: there is nothing drawn
        values: metrics of each user
        command: that was run
        cpu_seconds: of the training; None: not measured
        end: how the training ended
        recipe: its settings
        folder: of the records
    """
    means, lows, highs = bootstrap_interval(values.to_numpy())
    metrics = {
        str(name): {"mean": round(float(mean), 5), "low": round(float(low), 5),
                    "high": round(float(high), 5)}
        for name, mean, low, high in zip(values, means, lows, highs)
    }
    about = {"dataset": dataset, "protocol": protocol, "model": model, "seed": seed,
             "users": len(values), "metrics": metrics, "command": command, "end": end,
             "recipe": recipe}
    if cpu_seconds is not None: about["cpu_minutes"] = round(cpu_seconds / 60, 1)
    folder.mkdir(parents=True, exist_ok=True)
    words = f"{dataset} {model}" + ("" if seed is None else f" {seed}")
    path = folder / f"{re.sub('[^A-Za-z0-9]+', '-', words).lower()}.json"
    path.write_text(json.dumps(about, indent=1) + "\n")
    return path
