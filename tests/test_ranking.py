"A ranking model from data to table, with a run folder, pictures, and data without users."
import numpy as np
import pandas as pd
import pytest
import torch

from recbench.core.config import Loss, ModelConfig
from recbench.data import dataset_from_frames, load_dataset
from recbench.data.rows.features import IdFeature, RawFeature, Schema
from recbench.data.sets.dataset import build_rows
from recbench.evaluate.ranking import calibration_table, evaluate_ranking, evaluate_rows
from recbench.evaluate.retrieval import readable
from recbench.evaluate.row_baselines import fit_row_baselines
from recbench.evaluate.row_metrics import auc
from recbench.models import create_model
from recbench.models.rank_configs import rank_config, rank_features
from recbench.train import LiveCurves, Run, Trainer, runs
from recbench.train.checkpoint import Checkpoints
from recbench.train.schedules import ReduceOnPlateau

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clicks():
    return load_dataset("planted", task="rank", users=120, items=100)


def model_of(data, kind="deepfm", label=None, **options):
    plain = [
        feature.name for feature in data.features() if feature.is_sparse and not feature.is_sequence
    ]
    deep = [feature.name for feature in data.features() if not feature.is_sequence]
    widths = [feature.model_copy(update={"embedding_dim": 8}) for feature in data.features()]
    groups = [
        {"group_name": "wide", "feature_names": plain, "group_type": "WIDE"},
        {"group_name": "deep", "feature_names": deep},
    ]
    if kind == "deepfm": groups.append({"group_name": "fm", "feature_names": plain})
    config = ModelConfig(
        feature_groups=groups,
        losses=[{"binary_cross_entropy": {}}],
        **{kind: {"deep": {"hidden_units": [16], "dropout_ratio": [0.1]}}},
        **options,
    )
    torch.manual_seed(0)
    return create_model(config, widths, [label or data.schema.label])


def trainer(data, folder=None, callbacks=(), **options):
    return Trainer(
        model_of(data),
        data,
        **{
            **dict(
                batch_size=None if "loader" in options else 512,
                epochs=3,
                progress=False,
                run_dir=folder,
                save_every_steps=2 if folder else None,
                callbacks=callbacks,
            ),
            **options,
        },
    )


class StopAt:
    def __init__(self, step): self.step = step

    def on_step(self, trainer, step, loss):
        if step == self.step: raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options",
    [{}, {"table_optimizer": "adam", "table_weight_decay": 0.01, "monitor": "logloss"}],
    ids=["fused", "adam"],
)
def test_a_run_leaves_its_record_and_goes_on_to_the_same_end(clicks, tmp_path, options):
    whole = trainer(clicks, tmp_path / "whole", [ReduceOnPlateau()], **options)
    history = whole.fit()
    trainer(
        clicks, tmp_path / "cut", [ReduceOnPlateau(), StopAt(len(whole.loader) + 3)], **options
    ).fit()
    assert Checkpoints(tmp_path / "cut" / "checkpoints").load()["step"] == len(whole.loader) + 3
    resumed = trainer(clicks, tmp_path / "cut", [ReduceOnPlateau()], **options)
    pd.testing.assert_frame_equal(
        resumed.fit().drop(columns="seconds"), history.drop(columns="seconds"), check_exact=True
    )
    table = runs(tmp_path)
    monitor = options.get("monitor", "auc")
    assert (
        table.loc["whole", monitor] == (min if monitor == "logloss" else max)(history[monitor])
        and table.loc["whole", "model"] == "DeepFM"
    )
    loaded = Run.load(tmp_path / "whole")
    np.testing.assert_array_equal(
        evaluate_rows(loaded.model, clicks).probability, evaluate_rows(whole.model, clicks).probability
    )
    with pytest.raises(ValueError, match="DeepFM ranks rows"):
        loaded.recommend(clicks.user_frame.head(1))
    rows = clicks.test.take(torch.arange(50)).columns
    frame = pd.concat(
        [
            part.iloc[rows[key].numpy()].reset_index(drop=True)
            for part, key in ((clicks.user_frame, "user_index"), (clicks.item_frame, "item_index"))
        ],
        axis=1,
    )
    fresh = loaded.predict(frame.set_axis(range(5, 55)), block=16)
    np.testing.assert_allclose(
        fresh["probs"], evaluate_rows(whole.model, clicks).probability[:50], rtol=1e-6
    )
    assert fresh.index.tolist() == list(range(5, 55))
    with pytest.raises(ValueError, match="missing"): loaded.predict(frame.iloc[:, 2:])


def test_live_curves_follow_auc_and_logloss(clicks):
    curves = LiveCurves(["auc", "logloss"], every=0)
    trainer(clicks, callbacks=[curves], epochs=2, batch_size=4096).fit()  # a picture after every step
    assert (
        curves.png.startswith(b"\x89PNG")
        and "auc: validation" in curves.caption()
        and "logloss: validation" in curves.caption()
    )


def test_the_table_beside_its_baselines(clicks):
    trained = trainer(clicks, epochs=4)
    trained.fit()
    table = evaluate_ranking(trained.model, clicks, draws=100)
    assert list(table.columns.get_level_values(0).unique()) == [
        "DeepFM",
        "means",
        "logistic regression",
        "trees",
        "ceiling",
    ]
    assert (
        0.6 < table["DeepFM", "value"].iloc[0] < clicks.ceiling["auc"] + 0.02
        and table["means", "difference"].iloc[0] > 0
    )
    assert readable(table).shape == (3, 8)


def test_rows_without_users(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "id": rng.integers(0, 20, 3000),
            "other": rng.integers(0, 5, 3000),
            "number": rng.standard_normal(3000),
            "weight": rng.random(3000),
        }
    )
    rows["label"] = (
        rng.random(3000) < 1 / (1 + np.exp(-(rows["number"] + (rows["id"] % 3) - 1)))
    ).astype(int)
    features = [IdFeature(name="id"), IdFeature(name="other"), RawFeature(name="number")]
    data = build_rows(
        "rows",
        Schema(features=features, timestamp=None, label="label", sample_weight="weight"),
        rows[:2000],
        rows[2000:2500],
        rows[2500:],
        protocol="rows",
    )
    trained = trainer(data, tmp_path / "run", batch_size=256, epochs=8)
    history = trained.fit()
    assert "gauc" not in history and history["auc"].max() > 0.7
    assert set(evaluate_ranking(trained.model, data, draws=50).index) == {
        "auc [rows]",
        "logloss [rows]",
    }
    assert Run.load(tmp_path / "run").history["auc"].max() == history["auc"].max()


def test_negatives_and_unknown_labels_are_refused(clicks):
    from recbench.data import Negatives
    with pytest.raises(ValueError, match="ranking model"): trainer(clicks, negatives=Negatives())
    with pytest.raises(ValueError, match="label or weight column 'bought'"):
        Trainer(model_of(clicks, label="bought"), clicks)


# ---- labels, directions, splits of one class ----

def shown(rows=1500, seed=0, **columns):
    "Rows of an event log with a label that an item decides; further columns as they are given."
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 40, rows),
            "item_id": rng.integers(0, 20, rows),
            "timestamp": range(rows),
        }
    )
    frame["label"] = (rng.random(rows) < np.where(frame["item_id"] < 7, 0.6, 0.1)).astype(int)
    return frame.assign(**columns)


def data_of(frame, **given):
    return dataset_from_frames(frame, rows="all", verbose=False, max_history=0, max_recent=0, **given)


def plain_trainer(data, label="label", losses=None, num_class=1, metrics=(), **options):
    features = rank_features("DeepFM", data.features(), 8, 0.1)
    config = rank_config(
        "DeepFM",
        features,
        hidden_units=[8],
        **({"losses": [Loss.from_dict(loss) for loss in losses]} if losses else {}),
    )
    config = ModelConfig(**{**config.model_dump(), "num_class": num_class, "metrics": list(metrics)})
    torch.manual_seed(0)
    return Trainer(
        create_model(config, features, [label]),
        data,
        **{**dict(epochs=2, batch_size=256, progress=False), **options},
    )


SOFTMAX = [{"softmax_cross_entropy": {}}]


@pytest.mark.parametrize(
    ("values", "losses", "num_class", "told"),
    [
        (
            [-1, 1],
            None,
            1,
            "column label of train holds -1, 1; binary_cross_entropy needs 0 and 1.*min_label",
        ),
        ([1, 2], None, 1, "holds 1, 2;"),
        ([0, 2], None, 1, "holds 0, 2;"),
        ([1, 2, 3, 4, 5], None, 1, "holds 1, 2, 3, 4, 5;"),
        ([0, 0.5, 1], None, 1, "holds 0, 0.5, 1;"),
        ([1, 2, 3, 4, 5], SOFTMAX, 5, "softmax_cross_entropy needs whole numbers 0..4, num_class is 5"),
        ([0.5, 2.7], SOFTMAX, 5, "holds 0.5, 2.7;.*whole numbers"),
        ([0, -3.5], [{"ziln_loss": {}}], 3, "amounts of at least 0"),
        ([0.0, 1.5], [{"sigmoid_l2_loss": {}}], 1, "numbers from 0 to 1"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_labels_that_a_loss_cannot_read_are_refused_before_training(values, losses, num_class, told):
    data = data_of(shown(label=np.random.default_rng(1).choice(values, 1500)), label="label")
    with pytest.raises(ValueError, match=told): plain_trainer(data, losses=losses, num_class=num_class)
    if losses is None:
        with pytest.raises(ValueError, match="column label of test holds"):
            evaluate_rows(Half(), data, label="label")


@pytest.mark.parametrize(
    ("values", "losses", "num_class", "metrics"),
    [
        ([-1.5, 0.0, 7.0], [{"l2_loss": {}}], 1, {"rmse", "mae"}),
        ([0.0, 0.0, 3.5], [{"ziln_loss": {}}], 3, {"auc", "gauc", "logloss"}),
        ([1, 2, 3, 4, 5], [{"pairwise_logistic_loss": {}}], 1, {"xauc"}),
        ([0, 1, 2], SOFTMAX, 3, {"logloss", "accuracy"}),
    ],
    ids=["values", "amounts", "grades", "classes"],
)
def test_losses_of_other_labels_take_them(values, losses, num_class, metrics):
    data = data_of(shown(label=np.random.default_rng(1).choice(values, 1500)), label="label")
    trained = plain_trainer(data, losses=losses, num_class=num_class, epochs=1)
    history = trained.fit()
    assert metrics == set(trained.task.metrics(trained.model, data)) and history[
        list(metrics)
    ].notna().all(axis=None)


class Half:
    def predict_rows(self, dataset, split): return np.full(len(dataset.split(split)), 0.5)


class Logits(Half):
    def predict_rows(self, dataset, split): return np.linspace(-2, 2, len(dataset.split(split)))


def test_min_label_makes_ratings_events():
    ratings = np.random.default_rng(1).integers(1, 6, 1500)
    data = data_of(shown(label=ratings), label="label", min_label=4)
    seen = torch.cat([data.split(split).columns["label"] for split in ("train", "valid", "test")])
    assert sorted(seen.unique().tolist()) == [0, 1] and int(seen.sum()) == (ratings >= 4).sum()
    with pytest.raises(ValueError, match="probability of Logits has the value -2; must lie in 0..1"):
        evaluate_rows(Logits(), data)


@pytest.mark.parametrize(
    ("metrics", "monitor", "lower"),
    [
        ([{"normalized_entropy": {}}], "normalized_entropy", True),
        ([{"accuracy": {}}], "accuracy", False),
        ([], "logloss", True),
        ([], "gauc", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_best_epoch_goes_the_way_of_the_metric(metrics, monitor, lower, tmp_path):
    trained = plain_trainer(
        data_of(shown(), label="label"),
        metrics=metrics,
        monitor=monitor,
        epochs=4,
        patience=4,
        learning_rate=0.02,
        run_dir=tmp_path / "run",
    )
    values = trained.fit()[monitor]
    assert (
        trained.best_epoch == (values.idxmin() if lower else values.idxmax())
        and trained.higher_is_better != lower
    )
    assert runs(tmp_path).loc["run", monitor] == (values.min() if lower else values.max())
    with pytest.raises(ValueError, match="monitor.*normalised_entropy"):
        plain_trainer(trained.dataset, metrics=metrics, monitor="normalised_entropy")


@pytest.mark.parametrize("name", ["mean_squared_error", "mean_absolute_error"])
def test_errors_are_better_when_less(name):
    data = data_of(shown(label=np.random.default_rng(1).normal(size=1500)), label="label")
    trained = plain_trainer(
        data, losses=[{"l2_loss": {}}], metrics=[{name: {}}], monitor=name, epochs=4, patience=4
    )
    values = trained.fit()[name]
    assert trained.best_epoch == values.idxmin() and values.nunique() > 1


@pytest.mark.parametrize("monitor", [None, "auc", "gauc", "grouped_auc"])
def test_validation_rows_of_one_class(monitor):
    frame = shown(3000)
    frame.loc[frame["timestamp"].between(2400, 2699), "label"] = 0
    data = data_of(frame, label="label")
    with pytest.warns(
        UserWarning, match="is not defined there: column label .* holds 0; logloss is followed instead"
    ):
        trained = plain_trainer(
            data,
            metrics=[{"grouped_auc": {"grouping_key": "user_id"}}],
            monitor=monitor,
            epochs=6,
            learning_rate=0.01,
        )
    history = trained.fit()
    assert (
        trained.monitor == "logloss"
        and trained.best_epoch == history["logloss"].idxmin() > 1
        and history["auc"].isna().all()
    )
    with pytest.warns(UserWarning, match="means left out: column label of valid holds"):
        table = evaluate_ranking(trained.model, data, draws=50)
    assert list(table.columns.get_level_values(0).unique()) == [
        "DeepFM",
        "logistic regression",
        "trees",
    ]
    assert table["DeepFM"].notna().all(axis=None) and evaluate_ranking(
        trained.model, data, "valid", baselines=False, draws=50
    )["DeepFM", "value"].isna().tolist() == [True, True, False]


def test_a_ceiling_and_baselines_belong_to_a_label(clicks):
    trained = plain_trainer(clicks, "conversion", epochs=1)
    trained.fit()
    table = evaluate_ranking(trained.model, clicks, draws=50)
    bought = clicks.test.columns["conversion"].numpy()
    assert {"means", "trees"} < set(table.columns.get_level_values(0))
    best = clicks.ceilings["conversion"]
    assert table["ceiling", "value"].dropna().tolist() == [best["auc"], best["logloss"]]
    assert best["auc"] != clicks.ceiling["auc"] == clicks.ceilings["click"]["auc"]
    own, wrong = (
        fit_row_baselines(clicks, lambda name: name == "means", label)["means"]
        for label in ("conversion", "click")
    )
    assert table["means", "value"].iloc[0] == auc(own.predict_rows(clicks, "test"), bought)
    with pytest.raises(ValueError, match="was fitted on click and is judged by conversion"):
        evaluate_ranking(trained.model, clicks, baselines={"means": wrong})
    assert "ceiling" in evaluate_ranking(wrong, clicks, baselines=False, draws=50)


def test_equal_predictions_are_one_bin():
    table = calibration_table(np.full(1000, 0.5), np.repeat([0, 1], 500), 5)
    assert table[["rows", "predicted", "observed"]].to_numpy().tolist() == [[1000, 0.5, 0.5]]
    rng = np.random.default_rng(0)
    probability = rng.integers(1, 8, 1000) / 10
    label = (rng.random(1000) < probability).astype(int)
    shuffled = rng.permutation(1000)
    pd.testing.assert_frame_equal(
        calibration_table(probability, label, 4),
        calibration_table(probability[shuffled], label[shuffled], 4),
        rtol=1e-12,
    )
    assert (
        calibration_table(probability, label, 4)["rows"].sum() == 1000
        and calibration_table(np.arange(100) / 100, label[:100], 10)["rows"].tolist() == [10] * 10
    )
