"ESMM on a small planted world beside a tower trained on clicked rows, as the benchmark does it."
import sys

import pytest
from conftest import ROOT


@pytest.mark.usefixtures("one_thread")
def test_all_rows_teach_what_clicked_rows_cannot(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from esmm_planted import run
    found = run(0, users=200, items=120, epochs=6, kinds=("tower", "ESMM"))
    assert found["ESMM"] - found["tower"] > 0.02 and found["ESMM"] < found["ceiling"]
