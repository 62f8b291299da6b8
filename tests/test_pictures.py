"""Pictures of live plots and explorers are plain output: they survive papermill and a page without a
kernel.
"""

import pytest
from conftest import ROOT, outputs, run_papermill, tail
from nbconvert import HTMLExporter

EXPLORER = ROOT / "nbs" / "90_explore" / "20_curves.ipynb"


@pytest.mark.parametrize(
    "path", [ROOT / "nbs" / "80_train" / "30_live_plot.ipynb", EXPLORER], ids=["live plot", "explorer"]
)
def test_survive(path, tmp_path):
    executed = tmp_path / "out.ipynb"
    result = run_papermill(path, executed, tmp_path, {})
    assert result.returncode == 0, tail(result)
    pictures = sum("image/png" in output.get("data", {}) for output in outputs(executed))
    page, _ = HTMLExporter().from_filename(str(executed))     # as `jupyter nbconvert --to html` does
    assert page.count('src="data:image/png;base64') == pictures > 0


def test_controls_have_a_text_form():
    """And in the repository nothing else.

    A view of a widget that lives in no kernel says 'Loading widget...' for ever.
    """
    data = [output["data"] for output in outputs(EXPLORER) if "data" in output]
    captions = ["".join(kinds["text/plain"]) for kinds in data if "image/png" not in kinds]
    assert "metric = recall, k = 50, smoothing = 0.6" in captions
    assert not any("application/vnd.jupyter.widget-view+json" in kinds for kinds in data)
