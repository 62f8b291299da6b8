"""What the main job reaches on MovieLens-100K: `run_dssm.ipynb` with its defaults and several seeds, on
the test events.

    python benchmarks/movielens_dssm.py [--ties neutral] [--tie-seeds 0 1 2] [--seeds 0 1 2] [-p NAME
        VALUE ...] [--notebook nbs/experiments/run_dssm.ipynb]
    # protocol P1: likes of one second by item id, as peers have it
    python benchmarks/movielens_dssm.py --ties item_id

Every seed is a run of the notebook through papermill, as `make demo` does it, with one cell more at its
end that hands over the metrics of each user. Printed are the metrics of each seed with its wall
seconds, their mean and spread (standard deviation over seeds), and the difference to EASE: of each user
the mean over the seeds, less EASE, averaged over users with a paired bootstrap interval of 95 %. Likes
of one second are put in a neutral order, another one for each tie seed; each is a test of its own, with
EASE fitted on it, and the last table has the spread over the orders. With three orders and three seeds
these are nine runs, a quarter of an hour.

Targets for the defaults: recall@10 at least 0.130, recall@50 at least 0.380, the interval at k = 50
above zero, a run under 120 s.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import yaml
from _timing import verdict

from recbench.evaluate.significance import paired_interval

METRICS = ["recall@10", "recall@50", "ndcg@10"]
NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "experiments" / "run_dssm.ipynb"
LAST_CELL = f"""
models = {{"DSSM": model, "EASE": baselines["EASE"]}}
found = {{name: evaluate(fitted, data, [10, 50]) for name, fitted in models.items()}}
per_user = {{name: one.values[{METRICS}].to_dict("split") for name, one in found.items()}}
display({{"application/json": per_user}}, raw=True)
"""


def run(notebook: Path, parameters: dict, folder: str) -> tuple[dict[str, pd.DataFrame], float]:
    "Metrics of each user [U, metrics] of DSSM and EASE, and seconds of the run."
    longer, executed = Path(folder, "longer.ipynb"), Path(folder, "executed.ipynb")
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell(LAST_CELL))
    nbformat.write(content, longer)
    start = time.perf_counter()
    papermill.execute_notebook(longer, executed, parameters, cwd=notebook.parent, progress_bar=False)
    seconds = time.perf_counter() - start
    handed = nbformat.read(executed, as_version=4).cells[-1].outputs[0]["data"]["application/json"]
    return {name: pd.DataFrame(**values) for name, values in handed.items()}, seconds


Runs = list[tuple[dict[str, pd.DataFrame], float]]


def report(runs: Runs, seeds: list[int]) -> None:
    "Table of the seeds under one order of ties, then the verdicts."
    users, seconds = [values["DSSM"] for values, _ in runs], [took for _, took in runs]
    table = pd.DataFrame(
        [values.mean() for values in users], index=[f"seed {seed}" for seed in seeds]
    ).assign(seconds=seconds)
    ease = runs[0][0]["EASE"]
    print(
        pd.concat([table, table.agg(["mean", "std"]), ease.mean().to_frame("EASE").T])
        .round(4)
        .to_string(na_rep="")
    )
    difference = dict(
        zip(
            METRICS,
            zip(
                *paired_interval(
                    np.mean([values.to_numpy() for values in users], axis=0), ease.to_numpy()
                )
            ),
        )
    )
    for metric, (mean, low, high) in difference.items():
        print(f"{metric} DSSM - EASE {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    for metric, target in (("recall@10", 0.130), ("recall@50", 0.380)):
        verdict(metric, table[metric].mean(), at_least=target, kind="mean")
    verdict("recall@50 DSSM - EASE", difference["recall@50"][1], at_least=1e-9, kind="low end")
    verdict("longest run", max(seconds), at_most=120, kind="seconds")


def report_orders(orders: dict[str, Runs]) -> None:
    "Means of each order of ties, and their spread."
    means = {
        (name, order): sum(values[name].mean() for values, _ in runs) / len(runs)
        for order, runs in orders.items()
        for name in ("DSSM", "EASE")
    }
    table = pd.DataFrame(means).T
    table.loc[("DSSM - EASE", ""), :] = float("nan")
    for order in orders:
        table.loc[("DSSM - EASE", order), :] = table.loc[("DSSM", order)] - table.loc[("EASE", order)]
    table = table.dropna()
    for name, rows in table.groupby(level=0, sort=False):
        print(f"\n{name}, {len(rows)} orders of ties")
        print(
            pd.concat([rows.droplevel(0), rows.agg(["mean", "std", "min", "max"])])
            .round(4)
            .to_string(na_rep="")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook",
    )
    parser.add_argument("--notebook", type=Path, default=NOTEBOOK)
    parser.add_argument(
        "--ties", default="neutral", choices=["neutral", "item_id"], help="order of likes of one second"
    )
    parser.add_argument("--tie-seeds", type=int, nargs="+", default=[0, 1, 2], help="neutral orders")
    args = parser.parse_args()
    parameters, orders = {name: yaml.safe_load(value) for name, value in args.p} | {
        "ties": args.ties
    }, {}
    for tie_seed in args.tie_seeds if args.ties == "neutral" else [0]:
        order = parameters | {"tie_seed": tie_seed}
        with tempfile.TemporaryDirectory() as folder:
            runs = orders[f"tie seed {tie_seed}"] = [
                run(args.notebook.resolve(), order | {"seed": seed}, folder) for seed in args.seeds
            ]
        print(f"\n{args.notebook.stem}, test events, {order}", flush=True)
        report(runs, args.seeds)
    if len(orders) > 1: report_orders(orders)


if __name__ == "__main__":
    main()
