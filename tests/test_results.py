"The page of results is what its script makes of the stored records."

import importlib.util
import json
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


results = module(ROOT / "scripts" / "results.py")


def test_the_page_is_current():
    assert (ROOT / "RESULTS.md").read_text() == results.page()


def test_every_published_figure_has_source_and_protocol():
    published = json.loads((results.PLACE / "published.json").read_text())
    assert published and all(one["source"] and one["protocol"] and one["metrics"] for one in published)


def test_seeds_of_one_model_share_a_line(tmp_path):
    records = module(ROOT / "benchmarks" / "_records.py")
    for seed in (0, 1):
        values = pd.DataFrame({"recall@10": [0.0, 1.0, 1.0, seed]})
        records.record("toy", "leave-last", "Net", seed, values, "python x.py", 90.0, "epoch 1 of 2",
                       folder=tmp_path / "runs")
    (tmp_path / "published.json").write_text("[]")
    text = results.page(tmp_path)
    assert "| Net | 0, 1 | 0.6250 ± 0.1768 | 1.5 | here |" in text and text.count("`python x.py`") == 1


def test_every_model_of_the_zoo_is_exported_as_it_is():
    "Every part of every model has been tried, and torch.export holds it to 1e-6."
    records = [json.loads(path.read_text()) for path in (results.PLACE / "export").glob("*.json")]
    found = {(one["model"], one["part"]): one["forms"]["export"] for one in records}
    assert {model for model, _ in found} == set(loaded_models())
    assert {key: one for key, one in found.items() if not one.get("difference", 1) <= 1e-6} == {}


def loaded_models() -> list[str]:
    "Names of the zoo, without what other tests have made."
    import recbench.models as models
    from recbench.models.base import MODELS, BaseModel
    classes = [getattr(models, name) for name in models.__all__]
    made = [one.__name__ for one in classes if isinstance(one, type) and issubclass(one, BaseModel)]
    return [name for name in made if name in MODELS]


def test_a_form_that_is_missing_says_why(tmp_path):
    forms = {"export": {"difference": 0.0}, "onnx": {"left out": "DispatchError: no (function)"}}
    record = {"model": "Net", "part": "user", "torch": "2", "forms": forms}
    (tmp_path / "one.json").write_text(json.dumps(record))
    assert results.export_lines(tmp_path)[-2] == (
        "| Net | user | 0 | not tried | no: DispatchError: no |"
    )
