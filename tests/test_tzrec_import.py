"TorchEasyRec's configs and runs: read, built, trained three steps, evaluated; hostile texts refused."
import base64
import random
import re
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import SHARED
from test_build import smaller

from recbench.core.pipeline import FeatureConfig, PipelineConfig, TrainConfig
from recbench.data.columns.row_reader import RowReader
from recbench.interop import (
    load_tzrec_run,
    read_tzrec_config,
    save_tzrec_checkpoint,
    tzrec_names,
    tzrec_report,
)
from recbench.interop.tzrec_report import RULES, fields_of
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
    built = three_steps(PipelineConfig.from_dict(smaller(read_tzrec_config(path).to_dict())))
    if name != "tdm_taobao": return
    asked = read_tzrec_config(path).data_config.tdm_sampler.layer_num_sample
    loader = built.trainer.loader
    sizes = loader.tree.level_sizes  # fewer levels than theirs: counted from the leaves
    assert loader.layer_num_sample == [0, *(min(count, size - 1) for count, size in zip(
        asked[-len(sizes) + 1:], sizes[1:]))]
    assert any("layer_num_sample" in note for note in built.notes)


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


HSTU = """
data_config { batch_size: 64 dataset_type: ParquetDataset label_fields: "click"
  negative_sampler { input_path: "none" num_sample: 10 item_id_field: "next__item" } }
feature_configs { sequence_feature { sequence_name: "past" sequence_delim: "|" features { id_feature {
  feature_name: "item" embedding_name: "item" num_buckets: 300 embedding_dim: 8 } } } }
feature_configs { sequence_feature { sequence_name: "next" sequence_delim: "|" features { id_feature {
  feature_name: "item" embedding_name: "item" num_buckets: 300 embedding_dim: 8 } } } }
model_config {
  feature_groups { group_name: "user" feature_names: "past__item" group_type: JAGGED_SEQUENCE }
  feature_groups { group_name: "item" feature_names: "next__item" group_type: JAGGED_SEQUENCE }
  hstu_match { user_tower { input: "user" max_seq_len: 9 hstu { attn_num_layers: 1
    stu { embedding_dim: 8 num_heads: 1 hidden_dim: 8 attention_dim: 8 }
    positional_encoder { num_position_buckets: 9 } } } item_tower { input: "item" } output_dim: 8 }
  losses { softmax_cross_entropy {} } metrics { recall_at_k { top_k: 5 } } }
"""


def test_candidates_in_a_sequence_of_their_own():
    pipeline = read_tzrec_config(HSTU)
    three_steps(pipeline)
    rows = pd.DataFrame({"past__item": ["1|2", "3", "4|5|6"] * 30, "click": ["1|1", "1", "0"] * 30,
                         "next__item": [f"{n}|{n + 100}" if n % 3 == 0 else str(n) for n in range(90)]})
    built = build(pipeline, rows, progress=False)
    assert len(built.data.items) == len(built.data.train) == 120
    assert built.data.items.jagged["next__item"].lengths.tolist() == [1] * 120
    history = built.trainer.fit()
    assert np.isfinite(history["loss"]).all() and (history["loss"] > 0).all()
    towers = {name for name in built.model.state_dict() if "tables" in name}
    assert {built.model.state_dict()[name].data_ptr() for name in towers}.__len__() == 1
    with pytest.raises(ValueError, match="click holds 1 entries in row 0; next__item holds 2 targets"):
        build(pipeline, rows.assign(click="1"), progress=False)


def test_a_stream_of_encoded_rows_trains(tmp_path):
    rng, size = np.random.default_rng(0), 100
    steps = rng.integers(1, 5, size)
    lists = lambda word: [";".join(word() for _ in range(count)) for count in steps]
    rows = pd.DataFrame({
        "user": rng.integers(40, size=size), "item": rng.integers(90, size=size),
        "price": rng.integers(3, size=size), "shape": ["1\x032\x033"] * size,
        "seen__tags": lists(lambda: "4\x037"), "seen__hour": lists(lambda: "0.5"),
        "seen__price": lists(lambda: str(rng.integers(3))), "click": rng.integers(2, size=size)})
    rows[:70].to_parquet(tmp_path / "a.parquet", row_group_size=32)
    rows[70:].to_parquet(tmp_path / "b.parquet")
    pipeline = read_tzrec_config(OWN)
    built = build(pipeline, tmp_path / "b.parquet", progress=False, run_dir=tmp_path / "run",
                  stream=tmp_path / "*.parquet")
    assert np.isfinite(built.trainer.fit()["loss"]).all() and len(built.data.train) == 30
    assert (built.trainer.loader.stream.rows, built.trainer.loader.stream.epoch) == (100, 1)


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


FOLLOWED = """
train_config eval_config data_config feature_configs model_config train_input_path
eval_input_path model_dir batch_size eval_batch_size dataset_type fg_mode fg_encoded
fg_encoded_multival_sep label_fields sample_weight_fields input_fields input_name input_type
input_fields_str delimiter with_header shuffle force_base_data_group negative_sampler
negative_sampler_v2 hard_negative_sampler hard_negative_sampler_v2 tdm_sampler input_path
item_input_path hard_neg_edge_input_path num_sample num_hard_sample attr_fields item_id_field
user_id_field attr_delimiter field_delimiter layer_num_sample remain_ratio probability_type
feature_name embedding_name pooling separator init_fn fg_encoded_default_value trainable stub_type
sequence_length sequence_delim sequence_fields embedding_dim default_value hash_bucket_size
num_buckets vocab_list vocab_dict vocab_file asset_dir default_bucketize_value value_dim expression
weighted boundaries normalizer autodis num_channels temperature keep_prob mlp value_map combiner
need_discrete map key need_key value_separator nested_map pkey skey show_pkey show_skey variables
fill_missing query title method document kv_delimiter max_length norm_options tokenizer_type
text_normalizer sequence_name features lr momentum dampening nesterov weight_decay eps
initial_accumulator_value lr_decay beta1 beta2 amsgrad rho alpha centered max_gradient decay_size
decay_factor staircase warmup_learning_rate warmup_size min_learning_rate by_epoch schedule_sizes
learning_rates warmup T_max T_0 T_mult ema decay init_scale growth_factor backoff_factor
growth_interval clipping_type norm_type sparse_optimizer dense_optimizer num_steps num_epochs
save_checkpoints_steps save_checkpoints_epochs mixed_precision grad_scaler
gradient_accumulation_steps grad_clipping learning_rate_power ftrl_beta l1_reg l2_reg
""".split()  # the last four: of an optimizer that is refused by name


def reached(config, found, below=()):
    "Names of the fields of a config and of all that it holds, without what stands below some."
    for name, kind in fields_of(config).items():
        found.add(name)
        if isinstance(kind, type) and kind is not dict and name not in below:
            reached(kind, found, below)
    return found


def test_every_field_of_a_config_is_followed_or_reported():
    said = {name.rpartition(".")[2] for name in (*RULES.undone, *RULES.idle)}
    kinds = {name for name in reached(FeatureConfig, set()) if name.endswith("_feature")}
    kinds |= {"kv_dot_product", "sequence_kv_dot_product"}
    optimizers = {name for name in reached(TrainConfig, set())
                  if name.endswith(("_optimizer", "_learning_rate"))}
    there = reached(PipelineConfig, set(), ("model_config", "zch", "dynamicemb", "export_config",
                                            "part_optimizers", "embedding_constraints",
                                            "global_embedding_constraints"))
    assert there - said - kinds - optimizers - {*FOLLOWED} == set()
    assert {*FOLLOWED} - there == set()
    assert {name for name in there if name in said and name in FOLLOWED} <= {
        "initial_accumulator_value", "item_input_path", "weight_decay"}  # of one place, not of another


def test_a_trained_tokenizer_numbers_texts(tmp_path, monkeypatch):
    class Lengths:
        def __init__(self, model_file): pass
        def vocab_size(self): return 20
        def encode(self, texts): return [[len(word) for word in text.split()] for text in texts]
    (tmp_path / "t.model").write_text("")
    text = RAW.replace("feature_configs { combo_feature", """feature_configs { tokenize_feature {
      feature_name: "title" expression: "item:title" vocab_file: "t.model" embedding_dim: 4 } }
      feature_configs { combo_feature""", 1)
    reader = lambda: RowReader(read_tzrec_config(text), tmp_path)
    with pytest.raises(ValueError, match="title.*sentencepiece.*not installed"): reader()
    monkeypatch.setitem(sys.modules, "sentencepiece", SimpleNamespace(SentencePieceProcessor=Lengths))
    found = reader().part(["title"])
    assert found.features["title"].num_buckets == 20
    rows = found.encode(pa.table({"title": ["green tea", "ink", None]}))
    assert rows.jagged["title"].to_lists() == [[5, 3], [3], []]


TOKENIZED = """
train_input_path: "" eval_input_path: "" model_dir: ""
data_config { dataset_type: ParquetDataset fg_mode: FG_DAG }
feature_configs { tokenize_feature { feature_name: "title" expression: "item:title" embedding_dim: 4
  vocab_file: "own.%s" } }
"""


def numbered(kind, folder):
    reader = RowReader(PipelineConfig.from_textproto(TOKENIZED % kind), folder)
    rows = reader.encode(pa.table({"title": ["green tea", None, "", "tea \u8336"]}))
    return reader.features["title"].num_buckets, rows.jagged["title"].to_lists()


def test_sentencepiece_numbers_texts_as_it_does_itself(tmp_path):
    package = pytest.importorskip("sentencepiece")
    package.SentencePieceTrainer.train(
        sentence_iterator=iter(["green tea", "black tea, strong", "milk & honey"] * 30),
        model_prefix=str(tmp_path / "own"), vocab_size=60, hard_vocab_limit=False, minloglevel=2)
    model = package.SentencePieceProcessor(model_file=str(tmp_path / "own.model"))
    own = [model.encode(text) for text in ("green tea", "tea \u8336")]
    assert numbered("model", tmp_path) == (model.vocab_size(), [own[0], [], [], own[1]])


def test_tiktoken_merges_the_bytes_that_its_file_ranks(tmp_path):
    pytest.importorskip("tiktoken")
    ranks = [bytes([byte]) for byte in range(256)] + [b"te", b"tea", b"ee", b"een"]
    lines = [f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(ranks)]
    (tmp_path / "own.tiktoken").write_text("\n".join(lines))
    size, found = numbered("tiktoken", tmp_path)
    words = [b"".join(ranks[number] for number in row).decode() for row in found]
    assert size == 260 and words == ["green tea", "", "", "tea \u8336"]
    assert found[0] == [*b"gr", 259, 32, 257]  # "een" and "tea" are one number each


DSSM = """
data_config { batch_size: 64 dataset_type: ParquetDataset label_fields: "click"
  negative_sampler { input_path: "none" num_sample: 10 item_id_field: "item" } }
feature_configs { id_feature { feature_name: "user" num_buckets: 300 embedding_dim: 4 } }
feature_configs { id_feature { feature_name: "item" num_buckets: 300 embedding_dim: 4 } }
model_config {
  feature_groups { group_name: "user" feature_names: "user" group_type: DEEP }
  feature_groups { group_name: "item" feature_names: "item" group_type: DEEP }
  dssm { user_tower { input: "user" mlp { hidden_units: 4 } }
         item_tower { input: "item" mlp { hidden_units: 4 } } output_dim: 4 }
  losses { softmax_cross_entropy {} } metrics { recall_at_k { top_k: 5 } } }
"""


def test_rows_without_negatives_are_not_evaluated(tmp_path):
    built = build(read_tzrec_config(DSSM), progress=False, run_dir="")
    save_tzrec_checkpoint(built.model, tmp_path, step=1)
    (tmp_path / "pipeline.config").write_text(DSSM)
    run, rows = load_tzrec_run(tmp_path), pd.DataFrame({"user": [1], "item": [2], "click": [1]})
    with pytest.raises(ValueError, match="drawn by a sampler.*recall among one candidate is 1"):
        run.evaluate(rows)
    assert run.predict(rows)["similarity"].shape == (1, 1)
