"Pictures of live plots and explorers are plain output: they survive papermill and a page without a kernel."
import pytest
from conftest import ROOT, outputs, run, run_papermill, tail

EXPLORER = ROOT / "nbs" / "90_explore" / "20_curves.ipynb"


@pytest.mark.parametrize("path", [ROOT / "nbs" / "80_train" / "30_live_plot.ipynb", EXPLORER], ids=["live plot", "explorer"])
def test_survive(path, tmp_path):
    executed = tmp_path / "out.ipynb"
    result = run_papermill(path, executed, tmp_path, {})
    assert result.returncode == 0, tail(result)
    pictures = sum("image/png" in output.get("data", {}) for output in outputs(executed))
    result = run("jupyter-nbconvert", "--to", "html", "--output", "page.html", executed)
    assert result.returncode == 0, tail(result)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count('src="data:image/png;base64') == pictures > 0


def test_controls_have_a_text_form():
    rows = [output["data"] for output in outputs(EXPLORER) if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert ["".join(row["text/plain"]) for row in rows] == ["metric = recall, k = 50, smoothing = 0.6"]
