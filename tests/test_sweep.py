"A sweep killed at five moments ends with the table of an unbroken one; bad spaces are refused at once."
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import warm
from conftest import ROOT, run_papermill, tail

NOTEBOOK = ROOT / "nbs" / "experiments" / "run_sweep.ipynb"
HILL = """
import time

def climb(seed, folder, report, x: float, y: float):
    time.sleep(0.01)
    return 1 - (x - 0.3) ** 2 - (y - 0.6) ** 2 + seed / 1000
"""
SPACE = "{x: {low: 0.0, high: 1.0}, y: {low: 0.0, high: 1.0}}"


def sweep_in(folder):
    from recbench.sweep import Sweep

    sys.path.insert(0, str(folder.parent))
    return Sweep("hills:climb", SPACE, "height", folder, sampler="tpe", points=12, seeds=(0, 1))


def train(folder):
    sweep_in(folder).run(workers=0, progress=False)


def outcomes(folder):
    return len(list((folder / "trials").glob("*.json")))


def test_killed_at_five_moments(tmp_path):
    (tmp_path / "hills.py").write_text(HILL)
    for kill in range(5):
        process = warm.context().Process(target=train, args=(tmp_path / "broken",))
        process.start()
        while outcomes(tmp_path / "broken") < 1 + 4 * kill: time.sleep(0.003)
        time.sleep(0.005 * kill)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL and outcomes(tmp_path / "broken") < 24
    for name in ("broken", "whole"):
        process = warm.context().Process(target=train, args=(tmp_path / name,))
        process.start()
        process.join()
    broken, whole = (
        sweep_in(tmp_path / name).table().drop(columns=["seconds", "cpu"])
        for name in ("broken", "whole")
    )
    assert len(whole) == 24 and broken.equals(whole)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"space": "{lerning_rate: [0.1, 0.2]}"}, "'lerning_rate' is no parameter of"),
        ({"space": "{top_k: [5, five]}"}, "parameter top_k is 'five'; its type is int"),
        ({"space": "{rate: 1", "model": "DSSM"}, "space"),
        ({"model": "DSSM", "fixed": "{planted_users: 9, epochs: 1}"}, "'planted_users' is no"),
    ],
    ids=["unknown name", "wrong type", "no YAML", "fixed of a notebook"],
)
def test_bad_space_is_refused(parameters, said, tmp_path):
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, parameters)
    assert result.returncode != 0 and said in result.stderr, tail(result)


PLANS = """
def value(seed, folder, report, x: float): return x + seed / 100

def both(seed, folder, report, x: float, y: float): return x

def infinite(seed, folder, report, x: float): return float("inf")

def partly(seed, folder, report, x: float):
    if x == 9 and seed: raise RuntimeError("no")
    return x

def falls(seed, folder, report, x: float):
    for epoch in range(1, 5):
        if report(epoch, x): break
    return x + seed / 100 if epoch < 4 else -10 * x
"""


@pytest.fixture
def swept(tmp_path, monkeypatch):
    "Makes a sweep of a small function in a new folder, trained in this process."
    from recbench.sweep import Budget, Sweep

    (tmp_path / "plans.py").write_text(PLANS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, space, runs=None, folder="sweep", **options):
        sweep = Sweep(f"plans:{name}", space, "m", tmp_path / folder, **options)
        sweep.run(0, Budget(runs=runs), progress=False)
        return sweep

    return make


def test_interrupted_pool_leaves_no_outcome(tmp_path, monkeypatch):
    from recbench.sweep import workers
    from recbench.sweep.trials import Job, Plan

    made, start, before = [], subprocess.Popen, threading.active_count()

    def silent(command, **options):
        made.append(start(["sleep", "60"], **options))
        assert os.getsid(made[-1].pid) != os.getsid(0)  # the terminal's Ctrl-C is not for it
        return made[-1]

    monkeypatch.setattr(workers.subprocess, "Popen", silent)
    jobs = [Job(point, 0, 0, {"x": 0.1}) for point in range(3)]
    plan = Plan("toys:none", {"x": (0.1,)}, "m")
    stop = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    with pytest.raises(KeyboardInterrupt), workers.Pool(tmp_path, plan, 1) as pool: pool.run(jobs)
    stop.join()
    assert threading.active_count() == before and len(made) == 1
    assert made[0].returncode == -signal.SIGKILL
    assert not outcomes(tmp_path)


def test_more_points_go_on_with_the_same_ones(swept):
    options = {"space": SPACE.split(", y")[0] + "}", "sampler": "tpe", "batch": 2}
    few = swept("value", points=8, **options).table()["x"]
    more = swept("value", points=40, runs=8, **options)
    again = swept("value", points=40, runs=8, folder="other", **options)
    assert more.table()["x"].tolist() == again.table()["x"].tolist() == few.tolist()


def test_rungs_are_not_mixed(swept):
    from recbench.sweep import paired_seeds, setting_table, verdict
    from recbench.sweep.trials import read_outcomes

    options = {"space": {"x": [1, 2, 3]}, "sampler": "grid", "seeds": [0, 1], "rungs": [1, 4]}
    broken = swept("falls", runs=7, **options, keep=0.67)
    assert broken.table()["rung"].tolist() == [0, 0, 1, 0, 0, 0]
    table = setting_table(broken)
    assert table["rung"].tolist() == [0, 0, 0]
    assert table["m"].tolist() == pytest.approx([3.005, 2.005, 1.005])
    whole = swept("falls", folder="whole", **options)
    best = setting_table(whole).iloc[0]
    assert (best["point"], best["rung"], best["m"]) == (2, 1, -30)
    assert paired_seeds(whole, 2, 1)["difference"] == pytest.approx(1)
    assert "is after 1 epochs, where it ended, behind by 1.0000" in verdict(whole)
    took = [one.cpu for one in read_outcomes(whole.folder) if one.job.run.endswith("0002-0")]
    assert len(took) == 2 and whole.table()["cpu"][4] == pytest.approx(sum(took))


def test_runner_up_that_is_ahead_is_said_so(swept):
    from recbench.sweep import verdict

    sweep = swept("falls", {"x": [1, 2]}, sampler="grid", seeds=[0, 1], rungs=[1, 4], keep=0.6)
    for path in (sweep.folder / "trials").glob("0001-*-0.json"):
        path.write_text(path.read_text().replace('"value": 2.0', '"value": 0.0'))
    assert "behind by -" in verdict(sweep)


def test_failed_seed_does_not_win(swept):
    from recbench.sweep import draw_sweep, importances, setting_table

    sweep = swept("partly", {"x": [9, 1, 2, 3]}, sampler="grid", seeds=[0, 1])
    assert setting_table(sweep)["x"].tolist() == [3, 2, 1]
    with pytest.raises(ValueError, match="3 points ended well"): importances(sweep)
    assert len(draw_sweep(sweep).axes) == 2  # lines and best settings, no importances


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fixed": {"model": "DSSM", "dataset": "planted", "experts": 4}}, "'experts' is no"),
        ({"fixed": {"model": "DSMM", "dataset": "planted"}}, "unknown model 'DSMM'"),
        ({"fixed": {"dataset": "planted"}}, "a recipe needs 'model'"),
        ({"fixed": {"model": "DSSM"}}, "a recipe needs 'dataset'"),
        ({"target": "plans:value", "space": {"x": [1]}, "sampl": "grid"}, "did you mean 'sampler'"),
        ({"target": "plans:both", "space": {"x": [1]}}, "needs 'y'; name it"),
        ({"target": "plans:value", "space": {"x": [1]}, "rungs": [1.5, 2]}, "rungs is 1.5"),
        ({"target": "plans:value", "space": {"x": [1]}, "rungs": ["a"]}, "rungs is 'a'"),
        ({"target": "plans:value", "space": {"x": [1]}, "seeds": 3}, "seeds is 3"),
        ({"target": "plans:value", "space": {"x": [True, 1]}}, "holds a value twice"),
    ],
)
def test_refused_before_anything_runs(swept, tmp_path, change, said):
    from recbench.sweep import RECIPE, Sweep

    given = {"target": RECIPE, "space": {"learning_rate": [0.1]}} | change
    with pytest.raises(ValueError) as error: Sweep(metric="m", folder=tmp_path / "sweep", **given)
    assert said in str(error.value) and not (tmp_path / "sweep").exists()


def test_outcomes_are_finite(tmp_path, swept):
    from recbench.sweep.targets import best_value

    why = swept("infinite", {"x": [1.0]}).table()["why"][0]
    assert why.endswith("m is inf; must be a finite number")
    nan = float("nan")
    for name, values, best in (("a", [nan, 1.0, 3.0], (1.0, 3)), ("b", [2.0, nan], (2.0, 2))):
        (tmp_path / name).mkdir()
        rows = [json.dumps({"m": value}) + "\n" for value in values]
        (tmp_path / name / "epochs.jsonl").write_text("".join(rows))
        assert best_value(tmp_path / name, "m", False) == best


def test_random_points_differ(swept):
    from recbench.sweep.propose import first_points
    from recbench.sweep.trials import Plan

    assert swept("value", {"x": [1.0]}, sampler="random", points=5).table()["x"].tolist() == [1.0]
    space = {"x": (1, 2, 3, 4)}
    few, more = (first_points(Plan("a:b", space, "m", points=points)) for points in (2, 4))
    assert sorted(one["x"] for one in more) == [1, 2, 3, 4] and more[:2] == few
