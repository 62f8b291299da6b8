"The site of a part of the notebooks builds without a warning; links between all notebooks hold."
import importlib.util
import json
import re
import shutil
import sys

import pytest
from conftest import ROOT, notebooks

pytest.importorskip("myst_nb", reason="pip install recbench[docs]: then the site is built")
sys.path.insert(0, str(ROOT / "scripts"))
spec = importlib.util.spec_from_file_location("build_site", ROOT / "scripts" / "build_site.py")
build_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build_site)

PATH = ["10_look_at_your_data", "20_baselines", "30_two_towers"]
PART = ["50_metrics", "90_explore/20_curves", *(f"lessons/{name}" for name in PATH)]


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


@pytest.fixture
def page(site):
    "A page of a browser that sees files alone."
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if not chromium: pytest.skip("no chromium in PATH: apt-get install chromium, then this test runs")
    with api.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = play.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(40_000)
        page.route(re.compile("^https?:"), lambda route: route.abort())
        yield page
        browser.close()


def test_somebody_walks_the_path(site, page):
    "From the list of lessons on by next and back by previous; the picture of a widget is seen."
    def read(title: str) -> None: page.get_by_role("heading", level=1, name=title).wait_for()

    page.goto((site / "nbs" / "lessons" / "index.html").as_uri(), wait_until="domcontentloaded")
    page.locator("article a", has_text="look at your data").first.click()
    read("Lesson 1")
    page.locator("a.right-next").click()
    read("Lesson 2")
    page.locator("a.right-next").click()
    read("Lesson 3")
    page.locator("a.left-prev").click()
    read("Lesson 2")
    explorer = site / "nbs" / "90_explore" / "20_curves.html"
    page.goto(explorer.as_uri(), wait_until="domcontentloaded")
    picture = page.locator(".cell_output img").last
    picture.scroll_into_view_if_needed()
    natural, shown = (picture.evaluate(f"one => one.{width}") for width in ("naturalWidth", "width"))
    assert natural >= 640 and shown >= min(natural, 600) and page.get_by_text("metric = recall").count()
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        assert picture.bounding_box()["x"] + picture.bounding_box()["width"] <= width


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
