"Numbers of other implementations are met."
import contextlib
import io
import json
import re
import warnings
from collections import Counter

import pytest
import reference
import reference_models
import torch
import tzrec_stand_in as stand_in
import warm
from conftest import ROOT, SHARED, tail
from reference_common import Report

GOLDEN, EASYREC = SHARED / "golden" / "torcheasyrec", SHARED / "golden" / "easyrec"
EASYREC_MODELS = SHARED / "golden" / "easyrec_models"
COUNTS = r"(\d+) passed, (\d+) failed, (\d+) unsupported"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="no reference numbers: ../shared/golden/torcheasyrec is not there"
)


def check(folder):
    "Run the reference check on a folder; what it printed and the counts of its last line."
    said = io.StringIO()
    with contextlib.redirect_stdout(said), warnings.catch_warnings(): failed = reference.main(folder)
    counts = list(map(int, re.fullmatch(COUNTS, said.getvalue().splitlines()[-1]).groups()))
    assert failed == bool(counts[1])
    return said.getvalue(), *counts


@needs_golden
def test_torcheasyrec():
    said, passed, failed, _ = check(GOLDEN)
    assert failed == 0 and passed > 0, said[-3000:]


@pytest.mark.skipif(
    not EASYREC.is_dir(), reason="no reference numbers: ../shared/golden/easyrec is not there"
)
def test_easyrec():
    said, passed, failed, _ = check(EASYREC)
    assert failed == 0 and passed > 0, said[-3000:]


@pytest.mark.skipif(not EASYREC_MODELS.is_dir(), reason="no ../shared/golden/easyrec_models")
def test_easyrec_models():
    said, passed, failed, _ = check(EASYREC_MODELS)
    assert failed == 0 and passed >= 4, said[-3000:]


@needs_golden
def test_a_wrong_number_is_a_miss(tmp_path):
    golden = json.loads((GOLDEN / "variational_dropout.json").read_text(encoding="utf-8"))
    golden["cases"][1]["eval_penalty"]["data"] *= 1.01
    (tmp_path / "variational_dropout.json").write_text(json.dumps(golden), encoding="utf-8")
    tests = str(ROOT / "tests")
    program = f"import runpy, sys; sys.path.insert(0, {tests!r}); sys.argv[1:] = [{str(tmp_path)!r}]; "
    result = warm.run_python(
        program + f"runpy.run_path({tests + '/reference.py'!r}, run_name='__main__')", tmp_path
    )
    counts = f"{len(golden['cases']) - 1} passed, 1 failed, 0 unsupported"
    assert result.returncode == 1 and result.stdout.splitlines()[-1] == counts, tail(result)
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("MISS")] == [
        "variational_dropout/feature_p_1"
    ]


@pytest.mark.parametrize("model", stand_in.CONFIGS, ids=lambda model: model.__name__)
def test_models_without_stored_numbers(model, tmp_path):
    "Every loss, with and without weights, against the same formulas written out in plain torch."
    torch.manual_seed(0)
    counts, weights = Counter(), [1.0, 0.0, 2.0, 0.5, 3.0]
    for loss in stand_in.LOSSES:
        labels = [2, 0, 1, 0, 1] if loss == "softmax_cross_entropy" else [1, 0, 1, 0, 0]
        for weight in (None, weights):
            reference_models.check_model(
                stand_in.reference(model, loss, labels, weight),
                Report(f"{model.__name__}_{loss}", counts),
            )
    assert counts == {"ok": 4 * len(stand_in.LOSSES)}


@pytest.mark.parametrize("model", stand_in.MATCH_CONFIGS, ids=lambda model: model.__name__)
def test_match_models_without_stored_numbers(model):
    torch.manual_seed(0)
    counts = Counter()
    for weights in (None, [1.0, 0.0, 2.0, 0.5, 3.0]):
        reference_models.check_model(
            stand_in.match_reference(model, weights), Report(model.__name__, counts)
        )
    assert counts == {"ok": 4}


def test_a_history_network_without_inner_biases_is_one_with_zeros():
    torch.manual_seed(0)
    bias, counts = "user_tower._hist_seq_mlp.mlp.0.perceptron.0.bias", Counter()
    content = stand_in.match_reference(stand_in.mind, tensors={bias: torch.zeros(6)})
    del content["state_dict"][bias]
    reference_models.check_model(content, Report("mind", counts))
    assert counts == {"ok": 2}


def test_multi_task_and_tree_models_are_not_taken_for_ranking_models():
    text = 'feature_groups { group_name: "mmoe" feature_names: "dssm" }'
    assert (
        reference_models.model_field(
            "model_config {" + text + 'deepfm { deep { hidden_units: 2 } } } train_input_path: "a"'
        )
        == "deepfm"
    )
    for model in ("no_such_model { num_expert: 3 }", "other { mask_net { } }"):
        assert reference_models.model_field(text + model) == ""
