"""Compare recbench with numbers that TorchEasyRec and EasyRec produced: `python tests/reference.py
FOLDER`.

Prints `ok NAME`, `MISS NAME what` or `unsupported NAME reason` for every case of every JSON file,
then `N passed, N failed, N unsupported`. The exit code is 1 when anything missed.
"""

import json
import sys
import warnings
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import reference_cross_modal
import reference_hstu
import reference_layers
import reference_losses
import reference_matching
import reference_metrics
import reference_models
import reference_sequences
import reference_tasks
import reference_train
import reference_trees
from reference_common import Report, Unsupported

CHECKERS = {
    pattern: check
    for part in (
        reference_cross_modal,
        reference_hstu,
        reference_layers,
        reference_losses,
        reference_matching,
        reference_metrics,
        reference_sequences,
        reference_tasks,
        reference_train,
        reference_trees,
        reference_models,
    )
    for pattern, check in part.CHECKERS.items()
}


def check_file(path: Path, counts: Counter) -> None:
    report = Report(path.stem, counts)
    checker = next((check for pattern, check in CHECKERS.items() if fnmatch(path.stem, pattern)), None)
    try:
        if checker is None: raise Unsupported("not covered yet")
        checker(json.loads(path.read_text(encoding="utf-8")), report)
    except Unsupported as reason: report.line("unsupported", "", reason)
    except Exception as error: report.line("MISS", "", f"{type(error).__name__}: {error}")


def main(folder: str) -> int:
    warnings.filterwarnings("ignore", message=".*compute.*method of metric.*")
    files, counts = sorted(Path(folder).glob("*.json")), Counter()
    if not files: sys.exit(f"no JSON files in {folder}")
    for path in files: check_file(path, counts)
    print(f"{counts['ok']} passed, {counts['MISS']} failed, {counts['unsupported']} unsupported")
    return int(counts["MISS"] > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit("usage: python tests/reference.py FOLDER")
    sys.exit(main(sys.argv[1]))
