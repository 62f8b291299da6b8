"A ranking model from data to table, with a run folder, pictures, and data without users."
import numpy as np
import pandas as pd
import pytest
import torch

from recbench.core.config import ModelConfig
from recbench.data import load_dataset
from recbench.data.dataset import build_rows
from recbench.data.features import IdFeature, RawFeature, Schema
from recbench.evaluate.ranking import evaluate_ranking, evaluate_rows
from recbench.evaluate.retrieval import readable
from recbench.models import create_model
from recbench.train import LiveCurves, Run, Trainer, runs
from recbench.train.checkpoint import Checkpoints
from recbench.train.schedules import ReduceOnPlateau

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clicks():
    return load_dataset("planted", task="rank", users=120, items=100)


def model_of(data, kind="deepfm", label=None, **options):
    plain = [feature.name for feature in data.features() if feature.is_sparse and not feature.is_sequence]
    deep = [feature.name for feature in data.features() if not feature.is_sequence]
    widths = [feature.model_copy(update={"embedding_dim": 8}) for feature in data.features()]
    groups = [{"group_name": "wide", "feature_names": plain, "group_type": "WIDE"}, {"group_name": "deep", "feature_names": deep}]
    if kind == "deepfm": groups.append({"group_name": "fm", "feature_names": plain})
    config = ModelConfig(feature_groups=groups, losses=[{"binary_cross_entropy": {}}], **{kind: {"deep": {"hidden_units": [16], "dropout_ratio": [0.1]}}}, **options)
    torch.manual_seed(0)
    return create_model(config, widths, [label or data.schema.label])


def trainer(data, folder=None, callbacks=(), **options):
    return Trainer(model_of(data), data, **{**dict(batch_size=512, epochs=3, progress=False, run_dir=folder, save_every_steps=2, callbacks=callbacks), **options})


class StopAt:
    def __init__(self, step): self.step = step

    def on_step(self, trainer, step, loss):
        if step == self.step: raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{}, {"table_optimizer": "adam", "table_weight_decay": 0.01, "monitor": "logloss"}], ids=["fused", "adam"])
def test_a_run_leaves_its_record_and_goes_on_to_the_same_end(clicks, tmp_path, options):
    whole = trainer(clicks, tmp_path / "whole", [ReduceOnPlateau()], **options)
    history = whole.fit()
    trainer(clicks, tmp_path / "cut", [ReduceOnPlateau(), StopAt(len(whole.loader) + 3)], **options).fit()
    assert Checkpoints(tmp_path / "cut" / "checkpoints").load()["step"] == len(whole.loader) + 3
    resumed = trainer(clicks, tmp_path / "cut", [ReduceOnPlateau()], **options)
    pd.testing.assert_frame_equal(resumed.fit().drop(columns="seconds"), history.drop(columns="seconds"), check_exact=True)
    table = runs(tmp_path)
    monitor = options.get("monitor", "auc")
    assert table.loc["whole", monitor] == (min if monitor == "logloss" else max)(history[monitor]) and table.loc["whole", "model"] == "DeepFM"
    loaded = Run.load(tmp_path / "whole")
    np.testing.assert_array_equal(evaluate_rows(loaded.model, clicks).probability, evaluate_rows(whole.model, clicks).probability)
    with pytest.raises(ValueError, match="DeepFM ranks rows"): loaded.recommend(clicks.user_frame.head(1))


def test_live_curves_follow_auc_and_logloss(clicks):
    curves = LiveCurves(["auc", "logloss"], every=0)
    trainer(clicks, callbacks=[curves], epochs=2).fit()
    assert curves.png.startswith(b"\x89PNG") and "auc: validation" in curves.caption() and "logloss: validation" in curves.caption()


def test_the_table_beside_its_baselines(clicks):
    trained = trainer(clicks, epochs=4)
    trained.fit()
    table = evaluate_ranking(trained.model, clicks, draws=100)
    assert list(table.columns.get_level_values(0).unique()) == ["DeepFM", "means", "logistic regression", "trees", "ceiling"]
    assert 0.6 < table["DeepFM", "value"].iloc[0] < clicks.ceiling["auc"] + 0.02 and table["means", "difference"].iloc[0] > 0
    assert readable(table).shape == (3, 8)


def test_rows_without_users(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"id": rng.integers(0, 20, 3000), "other": rng.integers(0, 5, 3000), "number": rng.standard_normal(3000), "weight": rng.random(3000)})
    rows["label"] = (rng.random(3000) < 1 / (1 + np.exp(-(rows["number"] + (rows["id"] % 3) - 1)))).astype(int)
    features = [IdFeature(name="id"), IdFeature(name="other"), RawFeature(name="number")]
    data = build_rows("rows", Schema(features=features, timestamp=None, label="label", sample_weight="weight"), rows[:2000], rows[2000:2500], rows[2500:], protocol="rows")
    trained = trainer(data, tmp_path / "run", batch_size=256, epochs=8)
    history = trained.fit()
    assert "gauc" not in history and history["auc"].max() > 0.7
    assert set(evaluate_ranking(trained.model, data, draws=50).index) == {"auc [rows]", "logloss [rows]"}
    assert Run.load(tmp_path / "run").history["auc"].max() == history["auc"].max()


def test_negatives_and_unknown_labels_are_refused(clicks):
    from recbench.data import Negatives
    with pytest.raises(ValueError, match="ranking model"): trainer(clicks, negatives=Negatives())
    with pytest.raises(ValueError, match="label or weight column 'bought'"): Trainer(model_of(clicks, label="bought"), clicks)
