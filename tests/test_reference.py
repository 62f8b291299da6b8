"Numbers of other implementations are met."
import re

import pytest
from conftest import ROOT, SHARED, run, tail

GOLDEN = SHARED / "golden" / "torcheasyrec"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference numbers: ../shared/golden/torcheasyrec is not there")
def test_torcheasyrec():
    result = run("python", ROOT / "tests" / "reference.py", GOLDEN, timeout=300)
    last = result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) unsupported", last)
    assert result.returncode == 0 and counts and int(counts[2]) == 0 and int(counts[1]) > 0, tail(result)


def test_a_miss_is_a_miss(tmp_path):
    "A folder that cannot be read must not pass."
    (tmp_path / "recall_at_k.json").write_text("{}")
    result = run("python", ROOT / "tests" / "reference.py", tmp_path)
    assert result.returncode != 0 or "0 passed" in result.stdout, tail(result)
