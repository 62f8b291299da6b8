"""A finished run as one small JSON file, which `scripts/results.py` makes the page of."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbench.evaluate.ranking import RankEvaluation, resampled
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
    metrics = with_ends(values, *bootstrap_interval(values.to_numpy()))
    about = {"dataset": dataset, "protocol": protocol, "model": model, "seed": seed,
             "users": len(values), "metrics": metrics, "command": command, "end": end,
             "recipe": recipe}
    return write(about, cpu_seconds, folder)


def with_ends(
    names: Iterable[str], means: Iterable[float], lows: Iterable[float], highs: Iterable[float]
) -> dict[str, dict[str, float]]:
    "Metric -> mean and both ends of its interval."
    rounded = lambda value: round(float(value), 5)
    return {
        str(name): {"mean": rounded(mean), "low": rounded(low), "high": rounded(high)}
        for name, mean, low, high in zip(names, means, lows, highs)
    }


def record_rows(
    dataset: str, found: RankEvaluation, seed: int | None, command: str, valid: dict[str, float],
    cpu_seconds: float | None = None, end: str = "", recipe: str = "", folder: Path = RUNS
) -> Path:
    """The same of a ranking model, whose metrics are of all rows together.

    Args:
        dataset: as in the benchmark's table
        found: probabilities of the test rows; its name is the model's
        seed: None: there is nothing drawn
        command: that was run
        valid: metrics of the validation rows, which settings and the epoch were chosen by
        cpu_seconds: of the training; None: not measured
        end: how the training ended
        recipe: its settings
        folder: of the records
    """
    point = found.values()
    ends = np.quantile(resampled([found], 1000, seed=0)[0], [0.025, 0.975], axis=0)
    about = {"dataset": dataset, "protocol": found.protocol, "model": found.name, "seed": seed,
             "users" if found.has_users else "rows": int(found.unit.max()) + 1,
             "metrics": with_ends(point, point.values(), *ends),
             "valid": {name: round(value, 5) for name, value in valid.items()}, "command": command,
             "end": end, "recipe": recipe}
    return write(about, cpu_seconds, folder)


def write(about: dict[str, Any], cpu_seconds: float | None, folder: Path) -> Path:
    "Leave a record under the name of its data set, model and seed."
    if cpu_seconds is not None: about["cpu_minutes"] = round(cpu_seconds / 60, 1)
    folder.mkdir(parents=True, exist_ok=True)
    seed = "" if about["seed"] is None else f" {about['seed']}"
    words = re.sub("[^A-Za-z0-9]+", "-", f"{about['dataset']} {about['model']}{seed}")
    path = folder / f"{words.lower()}.json"
    path.write_text(json.dumps(about, indent=1) + "\n")
    return path
