"A sweep killed at five moments ends with the table of an unbroken one; bad spaces are refused at once."
import os
import signal
import sys
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
    ],
    ids=["unknown name", "wrong type", "no YAML"],
)
def test_bad_space_is_refused(parameters, said, tmp_path):
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, parameters)
    assert result.returncode != 0 and said in result.stderr, tail(result)
