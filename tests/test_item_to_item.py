"The item-to-item experiment as its users run it, small."
from conftest import ROOT, outputs, run_papermill, tail

NOTEBOOK = ROOT / "nbs" / "experiments" / "item_to_item.ipynb"


def test_runs(tmp_path):
    small = {"dataset": "planted", "pause": 0.0, "epochs": 1, "neighbours": "20 50",
             "losses": "info_nce_loss", "classes": 256}
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, small)
    assert result.returncode == 0, tail(result)
    found = outputs(tmp_path / "out.ipynb")
    assert sum("image/png" in output.get("data", {}) for output in found) == 1
    text = "".join("".join(output.get("text", "")) for output in found)
    assert "1,000 questions of 1,000 users, next clicks" in text
    assert "best loss on validation: info_nce" in text and "item-KNN, users: " in text
