"The configs of TorchEasyRec's examples, built on generated rows and trained three steps."
import importlib.util
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, SHARED

from recbench.core.pipeline import PipelineConfig
from recbench.data.columns.row_reader import RowReader
from recbench.data.columns.written import written_features
from recbench.data.rows.features import IdFeature, RawFeature, Schema, SequenceFeature
from recbench.data.sets.dataset import build_dataset, build_rows
from recbench.interop import read_tzrec_config
from recbench.train.build import build

spec = importlib.util.spec_from_file_location("tzrec_table", ROOT / "scripts" / "tzrec_table.py")
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)
smaller = table.smaller

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


def stand_in(pipeline, rows: int = 400):
    "Features of a config, and columns of few values for each of them."
    rng, features, columns = np.random.default_rng(0), [], {}
    lengths = rng.integers(1, 6, size=rows)          # sequences of one group run in step
    for one in written_features(pipeline.feature_configs):
        name, config, length = one.name, one.config, one.length
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
    asked = {one.name: one.config for one in written_features(pipeline.feature_configs)}
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


def test_the_table_of_configs_says_where_one_stops(tmp_path):
    (tmp_path / "own.config").write_text(HARD)
    (tmp_path / "wrong.config").write_text(HARD.replace("dssm {", "dsm {"))
    with pytest.warns(UserWarning): own = table.tried(tmp_path / "own.config", 3, 99)
    assert own[0] == "trained"
    done, said = table.tried(tmp_path / "wrong.config", 3, 99)
    assert done == "-" and said.endswith("line 12: dsm: unknown field; did you mean 'dssm'?")


def test_widths_that_do_not_fit_are_named():
    pipeline = read("wukong_criteo")
    with pytest.raises(ValueError, match=r"128.*16|16.*128"):
        build(pipeline, ranking_rows(pipeline), run_dir=None, applied=["normalizer"])


def test_a_normaliser_that_nobody_applied_is_refused():
    pipeline = read("dlrm_criteo")
    with pytest.raises(ValueError, match="normalizer"): build(pipeline, ranking_rows(pipeline))


HARD = """
train_input_path: "rows.parquet" eval_input_path: "" model_dir: ""
data_config { dataset_type: ParquetDataset batch_size: 32 hard_negative_sampler {
  user_input_path: "u" item_input_path: "i" hard_neg_edge_input_path: "e" num_sample: 8
  item_id_field: "sku" user_id_field: "who" } }
feature_configs { id_feature { feature_name: "user" num_buckets: 50 embedding_dim: 4 } }
feature_configs { id_feature {
  feature_name: "item" num_buckets: 200 embedding_dim: 4 init_fn: "nn.init.constant_,val=0.5" } }
model_config {
  feature_groups { group_name: "user" feature_names: "user" group_type: DEEP }
  feature_groups { group_name: "item" feature_names: "item" group_type: DEEP }
  dssm { user_tower { input: "user" mlp { hidden_units: 4 } }
         item_tower { input: "item" mlp { hidden_units: 4 } } output_dim: 4 }
  losses { softmax_cross_entropy {} }
}
"""


def test_all_hard_negatives_where_none_is_counted():
    with pytest.warns(UserWarning, match="generated"):
        built = build(PipelineConfig.from_textproto(HARD), progress=False)
    assert built.negatives.num_hard == built.data.dislikes.lengths.max() == 2


def test_files_of_a_relative_folder_are_read_once_with_the_keys_of_a_sampler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    rows = pd.DataFrame({"user": range(40), "item": range(40), "sku": range(40), "who": range(40)})
    rows.assign(sku=rows.sku // 2).to_parquet("in/rows.parquet")
    text = HARD.replace("hard_negative_sampler", "negative_sampler_v2")
    pipeline = PipelineConfig.from_textproto(text.replace("hard_neg_edge", "pos_edge"))
    encode, seen = RowReader.encode, []
    monkeypatch.setattr(RowReader, "encode", lambda *given: seen.append(1) or encode(*given))
    built = build(pipeline, folder="in", progress=False)
    assert len(seen) == 1 and len(built.data.items) == 20  # by `sku`, which is no feature
    assert len(built.data.train) == len(built.data.valid) == 40
    table = next(value for name, value in built.model.state_dict().items() if "item_emb" in name)
    assert (table == 0.5).all()
    with pytest.raises(ValueError, match="eval_input_path.*wrong"):
        build(replace(pipeline, eval_input_path="wrong.parquet"), folder="in", progress=False)


def test_a_table_of_items_gives_candidates_and_their_weights(tmp_path):
    rows = pd.DataFrame({"user": range(40), "item": range(40), "sku": range(40), "who": range(40)})
    rows.to_parquet(tmp_path / "rows.parquet")
    lines = [f"{sku}\t{sku % 3}\t{sku}" for sku in range(20, 60)]
    (tmp_path / "i").write_text("\n".join(["id:int64\tweight:float\tattrs:string", *lines]))
    (tmp_path / "e").write_text("\n".join(f"{who}\t{who + 15}\t1" for who in range(40)))
    text = HARD.replace("num_sample: 8", 'num_sample: 8 num_hard_sample: 1 attr_fields: "item"')
    built = build(PipelineConfig.from_textproto(text), folder=tmp_path, progress=False)
    assert len(built.data.items) == 60 and built.negatives.power == 1
    source = built.trainer.loader.source
    weights = np.array([sku % 3 if sku >= 20 else 0 for sku in range(60)])
    assert np.allclose(source.sampler.probabilities, weights / weights.sum())
    assert int(built.data.dislikes.lengths.sum()) == 40
    assert np.isfinite(built.trainer.fit()["loss"]).all()


def test_a_sampler_of_tree_nodes_is_refused_by_name():
    text = HARD.replace("hard_negative_sampler", "tdm_sampler")
    text = text.replace("num_sample", "layer_num_sample")
    text = text.replace('user_id_field: "who"', "").replace("user_input_path", "edge_input_path")
    text = text.replace("hard_neg_edge_input_path", "predict_edge_input_path")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="tdm_sampler.*tree"):
        build(PipelineConfig.from_textproto(text), progress=False)


def test_a_config_averages_by_its_own_rule():
    train = """train_config {
      sparse_optimizer { adagrad_optimizer { lr: 0.1 } }
      dense_optimizer { adam_optimizer {} ema { decay: 0.9 } } }"""
    with pytest.warns(UserWarning):
        built = build(PipelineConfig.from_textproto(HARD + train), progress=False)
    average = next(one for one in built.trainer.callbacks if hasattr(one, "decay"))
    assert (average.decay, average.corrected) == (0.9, False)
    assert not any("ema" in note for note in built.notes)
