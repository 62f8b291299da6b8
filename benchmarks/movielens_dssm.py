"""What the main job reaches on MovieLens-100K: `run_dssm.ipynb` with its defaults and several seeds, on the test events.

    python benchmarks/movielens_dssm.py [--seeds 0 1 2] [-p NAME VALUE ...] [--notebook nbs/experiments/run_dssm.ipynb]

Every seed is a run of the notebook through papermill, as `make demo` does it, with one cell more at its end that hands over
the metrics of each user. Printed are the metrics of each seed with its wall seconds, their mean and spread (standard
deviation over seeds), and the difference to EASE: of each user the mean over the seeds, less EASE, averaged over users with
a paired bootstrap interval of 95 %.

Targets for the defaults: recall@10 at least 0.130, recall@50 at least 0.380, the interval at k = 50 above zero, a run under 120 s.
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
per_user = {{name: evaluate(fitted, data, [10, 50]).values[{METRICS}] for name, fitted in {{"DSSM": model, "EASE": baselines["EASE"]}}.items()}}
display({{"application/json": {{name: values.to_dict("split") for name, values in per_user.items()}}}}, raw=True)
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


def report(runs: list[tuple[dict[str, pd.DataFrame], float]], seeds: list[int]) -> None:
    "Table of the seeds, then the verdicts."
    users, seconds = [values["DSSM"] for values, _ in runs], [took for _, took in runs]
    table = pd.DataFrame([values.mean() for values in users], index=[f"seed {seed}" for seed in seeds]).assign(seconds=seconds)
    ease = runs[0][0]["EASE"]
    print(pd.concat([table, table.agg(["mean", "std"]), ease.mean().to_frame("EASE").T]).round(4).to_string(na_rep=""))
    difference = dict(zip(METRICS, zip(*paired_interval(np.mean([values.to_numpy() for values in users], axis=0), ease.to_numpy()))))
    for metric, (mean, low, high) in difference.items(): print(f"{metric} DSSM - EASE {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    for metric, target in (("recall@10", 0.130), ("recall@50", 0.380)): verdict(metric, table[metric].mean(), at_least=target, kind="mean")
    verdict("recall@50 DSSM - EASE", difference["recall@50"][1], at_least=1e-9, kind="low end")
    verdict("longest run", max(seconds), at_most=120, kind="seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter of the notebook")
    parser.add_argument("--notebook", type=Path, default=NOTEBOOK)
    args = parser.parse_args()
    parameters = {name: yaml.safe_load(value) for name, value in args.p}
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(args.notebook.resolve(), {**parameters, "seed": seed}, folder) for seed in args.seeds]
    print(f"{args.notebook.stem}, test events, {parameters or 'defaults'}")
    report(runs, args.seeds)


if __name__ == "__main__":
    main()
