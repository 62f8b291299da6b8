"The configs of TorchEasyRec's examples, built on generated rows and trained three steps."
import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from recbench.core.pipeline import PipelineConfig
from recbench.data.rows.features import IdFeature, RawFeature, Schema, SequenceFeature
from recbench.data.sets.dataset import build_dataset, build_rows
from recbench.interop import read_tzrec_config
from recbench.train.build import build, described

FOLDER = SHARED / "data" / "torcheasyrec_configs"
RANKING = ["dlrm_criteo", "masknet_criteo", "multi_tower_taobao", "multi_tower_din_taobao"]
MATCHING = ["dssm_taobao", "dssm_v2_taobao", "mind_taobao"]


def read(name: str):
    path = FOLDER / f"{name}.config"
    if not path.is_file():
        pytest.skip(
            f"{path.name} is not there: the examples of TorchEasyRec are no part of the project"
        )
    return PipelineConfig.from_dict(smaller(read_tzrec_config(path).to_dict()))


def smaller(value):
    "The same with at most 3,000 rows a table: those of the examples take several GB."
    if isinstance(value, list): return [smaller(part) for part in value]
    if not isinstance(value, dict): return value
    sizes = {
        name: min(value[name], 3000) for name in ("num_buckets", "hash_bucket_size") if name in value
    }
    return {name: smaller(part) for name, part in value.items()} | sizes


def stand_in(pipeline, rows: int = 400):
    "Features of a config, and columns of few values for each of them."
    rng, features, columns = np.random.default_rng(0), [], {}
    lengths = rng.integers(1, 6, size=rows)          # sequences of one group run in step
    for name, (config, length) in described(pipeline.feature_configs).items():
        side = "item" if config.expression.startswith("item:") and not length else "user"
        if length:
            features.append(SequenceFeature(name=name, max_length=length))
            columns[name] = [rng.integers(9, size=size).tolist() for size in lengths]
        elif hasattr(config, "boundaries"):
            features.append(RawFeature(name=name, side=side, boundaries=tuple(config.boundaries)))
            columns[name] = rng.random(rows)
        else:
            features.append(IdFeature(name=name, side=side))
            columns[name] = rng.integers(2, size=rows)
    return features, pd.DataFrame(columns)


def ranking_rows(pipeline):
    features, frame = stand_in(pipeline)
    label = pipeline.data_config.label_fields[0]
    frame[label] = np.arange(len(frame)) % 2
    parts = frame[:300], frame[300:350], frame[350:]
    return build_rows(
        "stand-in", Schema(features=tuple(features), label=label), *parts, protocol="generated"
    )


def matching_rows(pipeline, size: int = 1100):
    "Users and items with features of their own, three events a user, every item in each split."
    features, frame = stand_in(pipeline, size)
    users = frame[[one.name for one in features if one.side == "user"]].assign(user_id=range(size))
    items = frame[[one.name for one in features if one.side == "item"]].assign(adgroup_id=range(size))
    order = np.arange(size)
    parts = [
        pd.DataFrame(
            {"user_id": order, "adgroup_id": (order + 7 * i) % size, "timestamp": order + size * i}
        )
        for i in range(3)
    ]
    schema = Schema(features=tuple(features), user_key="user_id", item_key="adgroup_id")
    return build_dataset(
        "stand-in", schema, *parts, users, items, protocol="generated", max_history=0, max_recent=0
    )


@pytest.mark.parametrize("name", [*RANKING, *MATCHING])
def test_three_steps(name, tmp_path):
    pipeline = read(name)
    data = (ranking_rows if name in RANKING else matching_rows)(pipeline)
    built = build(pipeline, data, run_dir=tmp_path / "run", applied=["normalizer"], progress=False)
    trainer, written = built.trainer, pipeline.train_config
    assert (trainer.settings["table_optimizer"], trainer.settings["table_learning_rate"]) == (
        "adagrad",
        written.sparse_optimizer.adagrad_optimizer.lr,
    )
    assert trainer.optimizer.param_groups[0]["lr"] == written.dense_optimizer.adam_optimizer.lr
    assert (
        trainer.epochs == written.num_epochs
        and trainer.loader.batch_size == pipeline.data_config.batch_size
    )
    sampler = pipeline.data_config.negative_sampler
    assert (built.negatives is None) == (sampler is None) and (
        sampler is None or built.negatives.num_sample == sampler.num_sample == 1024
    )
    asked = {one: config for one, (config, _) in described(pipeline.feature_configs).items()}
    for feature in built.features:
        rows = getattr(asked[feature.name], "num_buckets", None) or getattr(
            asked[feature.name], "hash_bucket_size", None
        )
        assert rows is None or feature.num_buckets == rows
    assert "data_config.fg_mode" in built.notes
    trainer.model.train()
    before, totals = {key: value.clone() for key, value in trainer.model.state_dict().items()}, []
    for _ in range(3):
        totals += [float(trainer.train_step(batch)[0]) for batch in trainer.loader]
        trainer.loader.next_epoch()
    moved = [key for key, value in trainer.model.state_dict().items() if not value.equal(before[key])]
    assert len(totals) == trainer.step == 3 and np.isfinite(totals).all()
    assert any(".tables." in key for key in moved) and any("mlp" in key for key in moved)


def test_widths_that_do_not_fit_are_named():
    pipeline = read("wukong_criteo")
    with pytest.raises(ValueError, match=r"128.*16|16.*128"):
        build(pipeline, ranking_rows(pipeline), run_dir=None, applied=["normalizer"])


def test_a_normaliser_that_nobody_applied_is_refused():
    pipeline = read("dlrm_criteo")
    with pytest.raises(ValueError, match="normalizer"): build(pipeline, ranking_rows(pipeline))
