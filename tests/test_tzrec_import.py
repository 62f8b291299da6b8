"TorchEasyRec's configs and runs: read, built, trained three steps, evaluated; hostile texts refused."
import random
import re
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED
from test_build import smaller

from recbench.core.pipeline import PipelineConfig
from recbench.interop import (
    load_tzrec_run,
    read_tzrec_config,
    save_tzrec_checkpoint,
    tzrec_names,
    tzrec_report,
)
from recbench.train.build import build

RUNS, CONFIGS = SHARED / "golden" / "torcheasyrec_runs", SHARED / "data" / "torcheasyrec_configs"
OWN = """
train_input_path: "none/*.parquet" eval_input_path: "" model_dir: "run"
train_config {
  sparse_optimizer { adagrad_optimizer { lr: 0.05 } constant_learning_rate {} }
  dense_optimizer { adam_optimizer { lr: 0.01 } cosine_annealing_learning_rate { T_max: 9 } ema {} }
  num_epochs: 1
}
data_config { batch_size: 64 dataset_type: ParquetDataset label_fields: "click" num_workers: 3 }
feature_configs { id_feature { feature_name: "user" num_buckets: 40 embedding_dim: 8 } }
feature_configs { id_feature {
  feature_name: "item" hash_bucket_size: 90 embedding_dim: 8 init_fn: "nn.init.uniform_,a=-0.1,b=0.1"
} }
feature_configs { raw_feature { feature_name: "price" boundaries: [1, 2] embedding_dim: 8 } }
feature_configs { raw_feature { feature_name: "shape" value_dim: 3 mlp {} embedding_dim: 4 } }
feature_configs { sequence_feature { sequence_name: "seen"
  features { id_feature { feature_name: "tags" num_buckets: 9 value_dim: 0 embedding_dim: 8 } }
  features { raw_feature { feature_name: "hour" autodis { num_channels: 3 } embedding_dim: 4 } }
  features { raw_feature { feature_name: "price" boundaries: [1, 2] embedding_dim: 8 } }
} }
model_config {
  feature_groups {
    group_name: "all" feature_names: ["user", "item", "price", "shape"] group_type: DEEP
    sequence_groups { feature_names: ["item", "seen__tags", "seen__hour", "seen__price"] }
    sequence_encoders { din_encoder { attn_mlp { hidden_units: 4 } } }
  }
  multi_tower { towers { input: "all" mlp { hidden_units: 8 } } final { hidden_units: 4 } }
  kernel: TRITON
  losses { binary_cross_entropy {} }
  metrics { auc {} }
}
"""


def three_steps(pipeline):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        built = build(pipeline, progress=False)
    assert any("generated" in str(one.message) for one in said)
    trainer, losses = built.trainer, []
    trainer.model.train()
    while len(losses) < 3:
        for batch in trainer.loader:
            if len(losses) < 3: losses.append(float(trainer.train_step(batch)[0]))
        trainer.loader.next_epoch()
    assert np.isfinite(losses).all()
    return built


def test_an_own_config_is_read_built_and_trained():
    built = three_steps(read_tzrec_config(OWN))
    assert type(built.model).__name__ == "MultiTower" and built.trainer.recorder is None
    assert tzrec_report(OWN).field.tolist() == ["data_config.num_workers", "model_config.kernel"]
    table = built.model.state_dict()["embedding_group.tables.item_emb.weight"]
    assert table.shape == (90, 8) and "embedding_group.tables.seen__tags_emb_seq.weight" in (
        built.model.state_dict()
    )


@pytest.mark.parametrize("name", ["dbmtl_taobao_jrc", "deepfm_criteo", "dssm_taobao", "ple_taobao",
                                  "pepnet_taobao", "rocket_launching_criteo", "tdm_taobao"])
def test_a_config_of_theirs_is_read_built_and_trained(name):
    path = CONFIGS / f"{name}.config"
    if not path.is_file(): pytest.skip(f"{path.name} is not there: it is no part of the project")
    three_steps(PipelineConfig.from_dict(smaller(read_tzrec_config(path).to_dict())))


RAW = """
train_input_path: "none" eval_input_path: "" model_dir: ""
data_config { batch_size: 64 dataset_type: CsvDataset fg_mode: FG_DAG with_header: true
              label_fields: "click" }
feature_configs { id_feature {
  feature_name: "town" expression: "user:town" hash_bucket_size: 50 embedding_dim: 4 } }
feature_configs { combo_feature {
  feature_name: "both" expression: ["user:town", "item:kind"] hash_bucket_size: 99 embedding_dim: 4 } }
feature_configs { expr_feature {
  feature_name: "cheap" expression: "price < 5 ? 1 : 0" variables: "item:price" } }
feature_configs { sequence_feature { sequence_name: "seen" sequence_length: 4
  features { id_feature {
    feature_name: "kind" expression: "item:kind" vocab_list: ["tea", "milk"] embedding_dim: 4 } } } }
feature_configs { id_feature {
  feature_name: "kind" expression: "item:kind" vocab_list: ["tea", "milk"] embedding_dim: 4 } }
model_config {
  feature_groups { group_name: "deep" feature_names: ["town", "both", "cheap"] group_type: DEEP }
  feature_groups { group_name: "past" feature_names: ["kind", "seen__kind"] group_type: SEQUENCE }
  multi_tower_din {
    towers { input: "deep" mlp { hidden_units: 4 } }
    din_towers { input: "past" attn_mlp { hidden_units: 4 } } final { hidden_units: 4 }
  }
  metrics { auc {} } losses { binary_cross_entropy {} }
}
"""


def test_raw_rows_become_features_and_train(tmp_path):
    rng = np.random.default_rng(0)
    kinds = np.array(["tea", "milk", "ink"])
    rows = pd.DataFrame({
        "town": rng.choice(["rome", "oslo"], 300), "kind": rng.choice(kinds, 300),
        "price": rng.random(300) * 10, "click": rng.integers(2, size=300),
        "seen__kind": [";".join(rng.choice(kinds, rng.integers(1, 7))) for _ in range(300)],
    })
    rows.to_csv(tmp_path / "rows.csv", index=False)
    built = build(read_tzrec_config(RAW), tmp_path / "rows.csv", progress=False)
    assert built.notes[-1] == "feature_configs: 2 hashed by FNV-1a, such as town"
    for name, ids in (("kind", {1, 2, 3}), ("seen__kind", {1, 2, 3})):
        assert set(built.data.train.jagged[name].values.tolist()) == ids
    assert built.data.train.jagged["seen__kind"].lengths.max() == 4
    cheap = built.data.train.dense[:, 0].numpy()
    assert (cheap == (rows.price < 5)).all()
    history = built.trainer.fit()
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("name", ["fm", "din", "dlrm", "dcn2", "mt", "dssm", "mind"])
def test_a_run_of_theirs_gives_its_metrics_and_goes_back(name, tmp_path):
    if not (RUNS / name).is_dir(): pytest.skip(f"{name} is not there: runs of TorchEasyRec are no part")
    run = load_tzrec_run(RUNS / name)
    assert run.metrics
    found = run.evaluate(RUNS / "eval" / "*.parquet")
    for metric, value in run.metrics.items():
        if not metric.startswith("recall"): assert abs(found[metric] - value) < 1e-6, metric
    if (RUNS / name / "predictions").is_dir():
        theirs = torch.tensor(pd.read_parquet(RUNS / name / "predictions")["probs"].to_numpy())
        assert (run.predict(RUNS / "eval")["probs"] - theirs).abs().max() < 1e-7
    own = {place: there for place, there in tzrec_names(run.model, run.pipeline).items()
           if not place.startswith("user_tower.hist_seq_mlp.") or place in run.names}
    assert own == run.names
    save_tzrec_checkpoint(run.model, tmp_path, step=1, names=run.names)
    (tmp_path / "pipeline.config").write_text((RUNS / name / "pipeline.config").read_text())
    back = load_tzrec_run(tmp_path).model.state_dict()
    assert all(torch.equal(value, back[key]) for key, value in run.model.state_dict().items()
               if key in run.names)


def hostile(text: str, kind: str, rng: random.Random) -> str:
    "The text with one thing wrong."
    if kind == "long": return text + "#" * 10_000_000
    if kind == "deep": return text + "model_config { feature_groups { " * rng.randint(30, 3000)
    if kind == "binary": return "".join(chr(rng.randint(0, 255)) for _ in range(3000)) + ":{\x00"
    fields = list(re.finditer(r"(\w+): ?([\d.]+|\"\w+\")", text))
    one = rng.choice(fields)
    new = f"{one[1]}_x{rng.randint(0, 99)}: 1" if kind == "unknown" else f"{one[1]} {{ a: 1 }}"
    return text[:one.start()] + new + text[one.end():]


@pytest.mark.parametrize("kind", ["unknown", "type", "deep", "long", "binary"])
def test_hostile_configs_get_a_clear_error_within_a_second(kind):
    rng = random.Random(0)
    for _ in range(100):
        text, start = hostile(OWN, kind, rng), time.process_time()
        with pytest.raises(ValueError) as error: read_tzrec_config(text)
        assert time.process_time() - start < 1 and 10 < len(str(error.value)) < 1500
