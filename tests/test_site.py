"The site of a part of the notebooks builds without a warning; links between all notebooks hold."
import importlib.util
import json
import re
import sys

import pytest
from conftest import ROOT, notebooks

pytest.importorskip("myst_nb", reason="pip install recbench[docs]: then the site is built")
sys.path.insert(0, str(ROOT / "scripts"))
spec = importlib.util.spec_from_file_location("build_site", ROOT / "scripts" / "build_site.py")
build_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build_site)

PART = ["50_metrics", "guides"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    assert build_site.build(out, PART, jobs="1") == (0, [])
    return out / "html"


def test_pages_of_a_part(site):
    auc = (site / "nbs" / "50_metrics" / "30_auc.html").read_text(encoding="utf-8")
    assert "<h1>AUC" in auc and 'rel="next"' in auc and "cell_output" in auc and "#| export" not in auc
    reference = (site / "reference" / "metrics.html").read_text(encoding="utf-8")
    assert 'id="recbench.metrics.AUC"' in reference
    assert "_modules/recbench/metrics/auc.html" in reference
    assert '"recbench.metrics"' in (site / "searchindex.js").read_text(encoding="utf-8")


def test_what_is_dead_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here"><a href="#gone"><img src="b.png">')
    (tmp_path / "c.html").write_text('<a href="a.html#here"><a href="a.html#gone"><a href="https://x.y">')
    assert sorted(build_site.dead_links(tmp_path)) == [
        f"{line} leads nowhere" for line in ("a.html: #gone", "a.html: b.png", "c.html: a.html#gone")
    ]


def test_a_widget_leaves_its_picture_and_text():
    view, text = {"model_id": "1", "version_major": 2}, "k = 20"
    outputs = [
        {"output_type": "display_data", "data": {build_site.WIDGET: view, "text/plain": text}},
        {"output_type": "display_data", "data": {"image/png": "AAAA"},
         "metadata": {"image/png": {"alt": text}}},
    ]
    cell = {"cell_type": "code", "metadata": {}, "source": "#| export\nx = 1", "outputs": outputs}
    page = build_site.as_page({"cells": [cell], "metadata": {"widgets": {}}})
    assert "widgets" not in page["metadata"] and outputs[0]["data"] == {"text/plain": text}
    assert cell["source"] == "x = 1" and cell["metadata"] == {
        "tags": ["export"], "mystnb": {"image": {"alt": text}}
    }


def links(path) -> list[str]:
    "Where the text of a notebook leads within the repository."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return [target for _, target in build_site.LINK.findall(re.sub(r"`[^`]*`", "", text))]


def test_links_of_notebooks_lead_somewhere():
    found = {path: links(path) for path in notebooks()}
    assert sum(map(len, found.values())) > 100
    dead = [f"{path}: {link}" for path in found for link in found[path]
            if not (path.parent / link).is_file()]
    assert dead == []
