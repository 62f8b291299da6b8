"The cold-start experiment as its users run it, small."
import pytest
from conftest import ROOT, outputs, run_papermill, tail

from recbench.data.published.fetch import find_files
from recbench.data.published.movielens_1m import _SHA256

NOTEBOOK = ROOT / "nbs" / "experiments" / "cold_start.ipynb"


@pytest.mark.skipif(
    find_files("movielens-1m", list(_SHA256), _SHA256) is None, reason="MovieLens-1M is not at hand"
)
def test_runs(tmp_path):
    small = {"newest": 3, "epochs": 1, "hidden": "0 1", "top_k": 20, "max_history": 5}
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, small)
    assert result.returncode == 0, tail(result)
    found = outputs(tmp_path / "out.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == 3
    texts = "".join("".join(output.get("text", "")) for output in found)
    assert "DropoutNet over DSSM in batch: cold" in texts and "20% of items held out, newest 3" in texts
