"The weighting lab as its users run it, tiny."
from conftest import ROOT, outputs, run_papermill, tail

NOTEBOOK = ROOT / "nbs" / "experiments" / "weighting_lab.ipynb"
TINY = {"steps": 4, "batch_size": 32, "fixed": "0.2 0.5", "seeds": "0 1"}


def test_runs(tmp_path):
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, TINY)
    assert result.returncode == 0, tail(result)
    found = outputs(tmp_path / "out.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == 2
    text = "".join("".join(output.get("text", "")) for output in found)
    for name in ("learnt", "random", "Pareto", "GradNorm", "PCGrad"): assert f"\n{name}" in text
    assert "Both tasks at once: " in text and "by 2 seeds" in text


def test_unknown_method_is_refused(tmp_path):
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, TINY | {"methods": "MGDA"})
    assert result.returncode != 0 and "unknown method 'MGDA'" in result.stderr, tail(result)
