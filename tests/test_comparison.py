"A folder of runs, compared as its user would: papermill on compare_runs.ipynb."
import pandas as pd
import pytest
import yaml
from conftest import ROOT, copy_tree, outputs, run_papermill, tail

from recbench.explore import config_table, read_comparison
from recbench.train.runs import write_manifest

NOTEBOOK = ROOT / "nbs" / "experiments" / "compare_runs.ipynb"


def said(path) -> str:
    "Everything a notebook printed or showed as text."
    return "\n".join(
        "".join(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
        for output in outputs(path)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Two tested runs of one config, one of another, and one that was not tested."
    import torch

    from recbench.core.config import (
        DSSMConfig,
        FeatureGroup,
        Loss,
        MLPConfig,
        ModelConfig,
        SoftmaxCrossEntropyConfig,
        Tower,
    )
    from recbench.data.published.planted import planted
    from recbench.explore import evaluate_run
    from recbench.models import DSSM
    from recbench.train import Trainer

    data, place = planted(users=200, items=120, seed=0), tmp_path_factory.mktemp("runs")
    groups = [
        FeatureGroup(group_name=side, feature_names=[feature.name for feature in data.features(side)])
        for side in ("user", "item")
    ]
    for name, width, seed in (
        ("wide-s0", 16, 0),
        ("wide-s1", 16, 1),
        ("20260131-221500-narrow", 2, 0),
        ("untested", 8, 0),
    ):
        towers = {
            f"{side}_tower": Tower(input=side, mlp=MLPConfig(hidden_units=[16]))
            for side in ("user", "item")
        }
        torch.manual_seed(seed)
        config = ModelConfig(
            feature_groups=groups,
            dssm=DSSMConfig(**towers, output_dim=width, similarity="COSINE", temperature=0.1),
            losses=[Loss(softmax_cross_entropy=SoftmaxCrossEntropyConfig())],
        )
        Trainer(
            DSSM(config, data.features(), []),
            data,
            epochs=2,
            run_dir=place / name,
            seed=seed,
            progress=False,
            learning_rate=0.01,
        ).fit()
        if name != "untested": evaluate_run(place / name, data, (5, 10))
    return place


def compare(tmp_path, **parameters):
    result = run_papermill(NOTEBOOK, tmp_path / "out.ipynb", tmp_path, parameters)
    return result, tmp_path / "out.ipynb"


def test_without_a_folder_it_makes_its_own(tmp_path):
    result, out = compare(tmp_path, demo_users=100, demo_epochs=1, draws=200)
    assert result.returncode == 0, tail(result)
    assert "4 runs of 2 configs, 4 of them tested" in said(out)
    assert sum("image/png" in output.get("data", {}) for output in outputs(out)) == 5


def test_a_run_outside_its_band_is_flagged(folder, tmp_path):
    bands = {
        "DSSM, output_dim 16": {"recall@10": {"mean": 0.0, "tolerance": 1.0}},
        "DSSM, output_dim 2": {"ndcg@5": {"mean": 0.9, "tolerance": 0.01}},
    }
    (tmp_path / "bands.yaml").write_text(yaml.safe_dump(bands))
    result, out = compare(
        tmp_path,
        folder=folder,
        bands=tmp_path / "bands.yaml",
        metric="ndcg",
        top_k=5,
        draws=200,
        test_missing=False,
    )
    assert result.returncode == 0, tail(result)
    text = said(out)
    assert (
        "4 runs of 3 configs, 3 of them tested" in text
        and "without test values, and left out below: ['untested']" in text
    )
    assert (
        "2 bands; outside of theirs: ['20260131-221500-narrow']" in text
        and "is not in 0.9000 ± 0.0100" in text
    )
    assert "ndcg@5: " in text and "p = " in text


def test_runs_without_a_test_are_tested_where_their_data_is_known(folder, tmp_path):
    copy_tree(folder, tmp_path / "runs")
    config = tmp_path / "runs" / "wide-s1" / "config.yaml"
    text = config.read_text().replace("fingerprint: ", "fingerprint: 0")
    write_manifest(config.parent, text)
    config.write_text(text)
    (tmp_path / "runs" / "wide-s1" / "test_values.parquet").unlink()
    result, out = compare(tmp_path, folder="runs", draws=200)
    assert result.returncode == 0, tail(result)
    text = said(out)
    assert (
        "wide-s1 cannot be tested: " in text
        and "trained on planted with fingerprint 0" in text
        and "3 of them tested" in text
    )
    assert (tmp_path / "runs" / "untested" / "test_values.parquet").exists()


def test_absent_folder_is_refused(tmp_path):
    result, _ = compare(tmp_path, folder="nowhere")
    assert result.returncode != 0 and "nowhere is not a folder" in result.stderr, tail(result)


def test_an_unknown_run_is_an_error(folder, tmp_path):
    for name in ("first", "second"):
        result, _ = compare(tmp_path, folder=folder, draws=200, test_missing=False, **{name: "wide"})
        assert (
            result.returncode != 0
            and "'wide' is no tested run and no config; there are ['DSSM, output_dim " in result.stderr
        ), tail(result)


def test_the_same_seed_run_twice_counts_once(folder, tmp_path):
    copy_tree(folder, tmp_path / "runs")
    copy_tree(folder / "wide-s1", tmp_path / "runs" / "narrow-again")  # a folder's name says nothing
    found = read_comparison(tmp_path / "runs")
    table = config_table(found, "recall@10")
    assert (
        table["seeds"].to_dict() == {"DSSM, output_dim 16": 2, "DSSM, output_dim 2": 1}
        and len(found.repeats()) == 1
    )
    assert found.runs.loc["narrow-again", "config"] == "DSSM, output_dim 16"
    pd.testing.assert_frame_equal(table, config_table(read_comparison(folder), "recall@10"))
