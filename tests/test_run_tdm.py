"The experiment on trees, as its users run it."
import re

import pytest
from conftest import ROOT, outputs, run_papermill, tail

SMALL = {"planted_users": 80, "planted_items": 100, "epochs": 1, "draws": 100, "baselines": False}


@pytest.mark.parametrize(
    "parameters",
    [{"branches": 3}, {"start": "category", "category": "brand", "remain_ratio": 0.5, "top_k": 5}],
    ids=["near", "category"],
)
def test_runs(parameters, tmp_path):
    result = run_papermill(
        ROOT / "nbs" / "experiments" / "run_tdm.ipynb",
        tmp_path / "out.ipynb",
        tmp_path,
        SMALL | parameters,
    )
    assert result.returncode == 0, tail(result)
    texts = [
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for output in outputs(tmp_path / "out.ipynb")
    ]
    assert (
        any(re.match(r"beam \d+", text) for text in texts)
        and any("of exact recall@" in text for text in texts)
        and f"\nrecall@{parameters.get('top_k', 10)} = hit_rate@" in texts[-1]
        and "full, leave-last" in texts[-1].splitlines()[1]
    )


def test_an_unknown_start_is_refused(tmp_path):
    result = run_papermill(
        ROOT / "nbs" / "experiments" / "run_tdm.ipynb",
        tmp_path / "out.ipynb",
        tmp_path,
        SMALL | {"start": "random"},
    )
    assert result.returncode != 0 and "allowed are 'near', 'category'" in result.stderr
