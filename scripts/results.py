"""RESULTS.md from the records of runs and the table of published figures: nothing is typed by hand.

    python scripts/results.py [--check]

A record is a file of `benchmarks/results/runs`, which the benchmarks write after a training: metrics
with intervals over users, seed, cost, command. `benchmarks/results/published.json` holds figures of
papers and repositories with their source and protocol.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).parent.parent
PLACE, PAGE = ROOT / "benchmarks" / "results", ROOT / "RESULTS.md"
SHOWN = ("recall@10", "ndcg@10", "recall@50", "auc", "logloss")
HEAD = """# Results

Every model that was run, set by set: metrics of the test with intervals of 95 % over users (of one
seed) or mean ± spread over seeds, what the training cost, the best baseline and the best published
figure. Made by `python scripts/results.py` from `benchmarks/results/`; each line's command stands
below its table. Compare within one protocol only.
"""


def stored(folder: Path) -> list[dict[str, Any]]:
    "The records of a folder, in the order of their names."
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def read_records(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    "Records by data set and model, seeds in order."
    found = defaultdict(list)
    for one in stored(folder): found[one["dataset"], one["model"]].append(one)
    return {key: sorted(runs, key=lambda run: run["seed"] or 0) for key, runs in found.items()}


def cell(runs: list[dict[str, Any]], metric: str) -> str:
    "A metric of one model: with its interval, or mean and spread over seeds."
    given = [run["metrics"][metric] for run in runs if metric in run["metrics"]]
    if not given: return ""
    means = [one["mean"] for one in given]
    if len(means) > 1: return f"{fmean(means):.4f} ± {stdev(means):.4f}"
    return f"{means[0]:.4f} [{given[0]['low']:.4f}, {given[0]['high']:.4f}]"


def cost(runs: list[dict[str, Any]]) -> str:
    "CPU minutes of a training, mean over seeds."
    minutes = [run["cpu_minutes"] for run in runs if "cpu_minutes" in run]
    return f"{fmean(minutes):.1f}" if minutes else ""


def lines_of(
    dataset: str, models: dict[str, list[dict[str, Any]]], published: list[dict[str, Any]]
) -> list[str]:
    "Table of one data set, best first by the first metric that all have."
    shown = [name for name in SHOWN if any(name in run["metrics"] for runs in models.values()
                                           for run in runs)]
    value = lambda runs: fmean(run["metrics"][shown[0]]["mean"] for run in runs)
    order = sorted(models, key=lambda name: -value(models[name]))
    first = models[order[0]][0]
    units = next(name for name in ("users", "rows") if name in first)
    lines = [f"## {dataset}", "", f"{first['protocol']}, {first[units]:,} {units}.", "",
             f"| model | seeds | {' | '.join(shown)} | CPU minutes | source |",
             "|---" * (len(shown) + 4) + "|"]
    for name in order:
        cells = " | ".join(cell(models[name], metric) for metric in shown)
        seeds = ", ".join(str(run["seed"]) for run in models[name] if run["seed"] is not None)
        lines.append(f"| {name} | {seeds} | {cells} | {cost(models[name])} | here |")
    for one in sorted(published, key=lambda one: -one["metrics"].get(shown[0], 0)):
        told = one["metrics"]
        cells = " | ".join(f"{told[name]:.4f}" if name in told else "" for name in shown)
        lines.append(f"| {one['model']} | | {cells} | | {one['source']}, {one['protocol']} |")
    return [*lines, "", *commands(models), ""]


def commands(models: dict[str, list[dict[str, Any]]]) -> list[str]:
    "What was run, a line a command and how it ended, with the models that it was."
    said: dict[str, dict[str, None]] = defaultdict(dict)
    for name, runs in models.items():
        for run in runs: said[", ".join(filter(None, (f"`{run['command']}`", run["end"])))][name] = None
    return [f"- {', '.join(names)}: {text}" for text, names in said.items()]


def best(models: dict[str, list[dict[str, Any]]], metric: str, trained: bool) -> str:
    "The best model of these records that was trained with a seed, or that was not, with its number."
    found = {name: runs for name, runs in models.items()
             if all(metric in run["metrics"] and (run["seed"] is not None) == trained for run in runs)}
    if not found: return ""
    name = max(found, key=lambda one: fmean(run["metrics"][metric]["mean"] for run in found[one]))
    return f"{name} {cell(found[name], metric)}"


def best_published(dataset: str, metric: str, folder: Path = PLACE) -> str:
    "The best published figure of a data set, with its source."
    figures = [one for one in json.loads((folder / "published.json").read_text())
               if one["dataset"] == dataset and metric in one["metrics"]]
    if not figures: return ""
    one = max(figures, key=lambda figure: figure["metrics"][metric])
    return f"{one['model']}: {one['metrics'][metric]:.4f} ({one['source']})"


def summary(folder: Path = PLACE) -> list[list[str]]:
    "Data set and protocol, metric, best model, best baseline, best published figure: a row a data set."
    rows, by_set = [], sets_of(folder)
    for dataset in sorted(by_set):
        runs = [run for given in by_set[dataset].values() for run in given]
        metric = next(name for name in SHOWN if any(name in run["metrics"] for run in runs))
        ours, baseline = (best(by_set[dataset], metric, trained) for trained in (True, False))
        told = f"{dataset}, {runs[0]['protocol']}"
        if ours: rows.append([told, metric, ours, baseline, best_published(dataset, metric, folder)])
    return rows


def glance(folder: Path) -> list[str]:
    "The best of each set, a line each."
    if not (rows := summary(folder)): return []
    header = ["data, protocol", "metric", "best model", "best baseline", "best published"]
    table = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return ["## At a glance", "", *table, ""]


def sets_of(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    "Records by data set, then by model."
    by_set: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for (dataset, model), runs in read_records(folder / "runs").items(): by_set[dataset][model] = runs
    return by_set


FORMS = {"export": "torch.export", "aot": "AOTInductor", "onnx": "ONNX"}


def form_cell(found: dict[str, Any] | None) -> str:
    "Greatest difference of a form, or why it is left out."
    if found is None: return "not tried"
    if "difference" in found: return f"{found['difference']:.1e}" if found["difference"] else "0"
    return f"no: {found['left out'][:60].split('(')[0].strip()}"


def export_lines(folder: Path) -> list[str]:
    "Table of what each model can be exported as."
    records = stored(folder)
    if not records: return []
    lines = ["## Exported forms", "", "Greatest difference of an exported program from its model, as a "
             "share of the greatest number where that is above 1: batches of 1, 7 and 1024 rows, empty "
             "lists, unknown ids. `python benchmarks/export_parity.py [--forms aot]`, PyTorch "
             f"{', '.join(sorted({one['torch'] for one in records}))}.", "",
             f"| model | part | {' | '.join(FORMS.values())} |", "|---" * (len(FORMS) + 2) + "|"]
    for one in records:
        cells = " | ".join(form_cell(one["forms"].get(form)) for form in FORMS)
        lines.append(f"| {one['model']} | {one['part']} | {cells} |")
    return [*lines, ""]


def form_rows(folder: Path = PLACE / "export") -> list[list[str]]:
    "Models by the parts that are exported and the forms these have, with the greatest difference."
    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in stored(folder): by_model[one["model"]].append(one)
    kinds: dict[tuple, list[str]] = defaultdict(list)
    for model, parts in by_model.items():
        held = tuple(all("difference" in one["forms"].get(form, {}) for one in parts) for form in FORMS)
        kinds["/".join(sorted(one["part"] for one in parts)), held].append(model)
    rows = [["models", "parts", *FORMS.values()], ["---"] * (2 + len(FORMS))]
    for (parts, held), models in kinds.items():
        most = [max(one["forms"][form]["difference"] for name in models for one in by_model[name])
                if has else None for form, has in zip(FORMS, held)]
        cells = ["no" if value is None else form_cell({"difference": value}) for value in most]
        rows.append([", ".join(sorted(models)), parts.replace("/", ", "), *cells])
    return rows


def catalogue_lines(folder: Path) -> list[str]:
    "Table of indexes by recall, time and memory."
    records = stored(folder)
    if not records: return []
    lines = ["## Indexes of large catalogues", "", "Clustered unit vectors; CPU milliseconds of one "
             "thread for one user's hundred, median of 64 users; recall of the exact hundred; memory "
             "of the structure, vectors included where it holds them. `python "
             "benchmarks/catalogue.py`.", "",
             "| items | index | effort | recall@100 | milliseconds | megabytes | built in, CPU s |",
             "|---" * 7 + "|"]
    for one in sorted(records, key=lambda record: (-record["items"], record["megabytes"])):
        made = f", efConstruction {one['construction']}" if "construction" in one else ""
        lines += [f"| {one['items']:,} x {one['width']} | {one['kind']}{made} | {each['effort']} | "
                  f"{each['recall']:.4f} | {each['milliseconds']:.2f} | {one['megabytes']:,} | "
                  f"{one['build_seconds']:,} |" for each in one["settings"]]
    return [*lines, ""]


def page(folder: Path = PLACE) -> str:
    "The whole page."
    published = json.loads((folder / "published.json").read_text())
    by_set, lines = sets_of(folder), [HEAD, *glance(folder)]
    for dataset in sorted(by_set):
        own = [one for one in published if one["dataset"] == dataset]
        lines += lines_of(dataset, by_set[dataset], own)
    lines += export_lines(folder / "export") + catalogue_lines(folder / "catalogue")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where the page differs")
    text = page()
    if not parser.parse_args().check: PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text: sys.exit("RESULTS.md: run scripts/results.py")


if __name__ == "__main__": main()
