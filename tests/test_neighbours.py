"Every component notebook ends on links: to its neighbours, to the lessons that use it, to the letters."
import importlib.util
import inspect
import json
import re

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("neighbours", ROOT / "scripts" / "neighbours.py")
neighbours = importlib.util.module_from_spec(spec)
spec.loader.exec_module(neighbours)


@pytest.fixture(scope="module")
def paragraphs():
    return neighbours.wanted()


def test_notebooks_end_on_their_links(paragraphs):
    "A new notebook changes the links of those beside it: python scripts/neighbours.py --write."
    found = neighbours.stale()
    assert len(paragraphs) > 250 and not found, found


def test_links_lead_to_neighbours_lessons_and_letters(paragraphs):
    middle = paragraphs["30_matching/30_corrections.ipynb"]
    for target in ("(20_similarity.ipynb)", "(40_chunked.ipynb)", "(../lessons/40_negatives.ipynb)",
                   f"(../{neighbours.LETTERS})"):
        assert target in middle
    imported = paragraphs["70_evaluate/40_retrieval.ipynb"]
    assert "lessons/20_baselines.ipynb" in imported
    for name, lessons in neighbours.lessons().items():
        assert all(lesson in paragraphs.get(name, lesson) for lesson in lessons), name


def test_a_paragraph_is_replaced_and_added():
    first, second = f"{neighbours.START}[a](a.ipynb).", f"{neighbours.START}[b](b.ipynb)."
    cells = [{"cell_type": "markdown", "source": ["**Try it.** One."]}]
    once = neighbours.mended({"cells": cells}, first)
    twice = neighbours.mended(once, second)["cells"][0]["source"]
    assert "".join(twice) == f"**Try it.** One.\n\n{second}"
    code = neighbours.mended({"cells": [{"cell_type": "code", "source": ["x = 1"]}]}, first)
    assert len(code["cells"]) == 2
    assert "".join(neighbours.mended(code, second)["cells"][1]["source"]) == second


WITHOUT = {"42_multi_tower.ipynb"}      # a model without a paper; its notebook says so


def test_every_model_notebook_links_its_paper():
    from recbench.models.base import MODELS

    for model in MODELS.values():
        if not model.__module__.startswith("recbench.models."): continue
        head = open(inspect.getfile(model), encoding="utf-8").read(1000)
        path = ROOT / "nbs" / re.search(r"File to edit: \S*nbs/(\S+)\.\n", head)[1]
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        places = r"arxiv\.org/abs/\d{4}\.\d{5}|doi\.org/10\.|papers\.nips\.cc/|dlp-kdd\.github\.io/"
        linked = re.search(f"https://({places})", text)
        assert linked or path.name in WITHOUT and "no paper of its own" in text, path.name
