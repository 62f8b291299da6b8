"Numbers of other implementations are met."
import json
import re

import pytest
from conftest import ROOT, SHARED, run, tail

GOLDEN, EASYREC = SHARED / "golden" / "torcheasyrec", SHARED / "golden" / "easyrec"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference numbers: ../shared/golden/torcheasyrec is not there")


def check(folder):
    "Run the reference check on a folder; its result and the counts of its last line."
    result = run("python", ROOT / "tests" / "reference.py", folder, timeout=300)
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) unsupported", (result.stdout.strip().splitlines() or [""])[-1])
    assert counts, tail(result)
    return result, *map(int, counts.groups())


def test_torcheasyrec():
    result, passed, failed, _ = check(GOLDEN)
    assert result.returncode == 0 and failed == 0 and passed > 0, tail(result)


@pytest.mark.skipif(not EASYREC.is_dir(), reason="no reference numbers: ../shared/golden/easyrec is not there")
def test_easyrec():
    result, passed, failed, _ = check(EASYREC)
    assert result.returncode == 0 and failed == 0 and passed > 0, tail(result)


def test_a_wrong_number_is_a_miss(tmp_path):
    golden = json.loads((GOLDEN / "variational_dropout.json").read_text(encoding="utf-8"))
    golden["cases"][1]["eval_penalty"]["data"] *= 1.01
    (tmp_path / "variational_dropout.json").write_text(json.dumps(golden), encoding="utf-8")
    result, passed, failed, _ = check(tmp_path)
    assert result.returncode != 0 and failed == 1 and passed == len(golden["cases"]) - 1, tail(result)
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("MISS")] == ["variational_dropout/feature_p_1"]
