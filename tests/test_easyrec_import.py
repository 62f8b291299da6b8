"EasyRec's configs: read, built, trained three steps, rows of a file included; hostile texts refused."
import random
import time

import numpy as np
import pandas as pd
import pytest
from test_tzrec_import import hostile, three_steps

from recbench.interop import easyrec_report, read_easyrec_config
from recbench.train.build import build

HEAD = """
train_input_path: "none.csv" eval_input_path: "" model_dir: ""
train_config { optimizer_config { adam_optimizer { learning_rate { exponential_decay_learning_rate {
  initial_learning_rate: 0.01 decay_steps: 100 decay_factor: 0.5 min_learning_rate: 0.001 } } } } }
data_config { batch_size: 64 label_fields: ["click", "buy"] input_type: CSVInput with_header: true
  num_epochs: 1 MORE
  input_fields { input_name: "click" input_type: INT32 }
  input_fields { input_name: "buy" input_type: INT32 }
  input_fields { input_name: "price" input_type: FLOAT default_val: "1" } }
feature_config {
  features { input_names: "who" feature_type: IdFeature hash_bucket_size: 50 embedding_dim: 8 }
  features { input_names: "town" feature_type: IdFeature hash_bucket_size: 20 embedding_dim: 8 }
  features { input_names: "item" feature_type: IdFeature num_buckets: 90 embedding_dim: 8
             embedding_name: "item" }
  features { input_names: "tags" feature_type: TagFeature num_buckets: 9 embedding_dim: 8 }
  features { input_names: "seen" feature_type: SequenceFeature num_buckets: 90 embedding_dim: 8
             max_seq_len: 10 embedding_name: "item" combiner: "mean" }
  features { input_names: "price" feature_type: RawFeature min_val: 0 max_val: 10 }
}
"""
ALL = ('feature_groups { group_name: "all" PAST '
       'feature_names: ["who", "town", "item", "tags", "price"] }')
PAST = ('sequence_features { group_name: "past" seq_att_map { key: "item" hist_seq: "seen" } '
        "seq_dnn { hidden_units: [8, 1] } }")
SIDES = ('feature_groups { group_name: "user" feature_names: ["who", "town"] PAST } '
         'feature_groups { group_name: "item" feature_names: ["item", "tags"] }')
WIDE = ('feature_groups { group_name: "wide" feature_names: ["who", "item", "price"] wide_deep: WIDE } '
        'feature_groups { group_name: "deep" feature_names: ["who", "town", "item", "tags"] }')
NET, HEADS = "{ hidden_units: [8, 4] }", 'tower_name: "ctr" dnn { hidden_units: 4 }'
TASKS = f'task_towers {{ {HEADS} }} task_towers {{ tower_name: "cvr" LAST }}'
MODELS = {
    "WideAndDeep": WIDE + f"wide_and_deep {{ dnn {NET} }}",
    "DeepFM": WIDE + f"deepfm {{ dnn {NET} final_dnn {NET} wide_output_dim: 8 }} num_class: 1",
    "MultiTower": ALL + f'multi_tower {{ towers {{ input: "all" dnn {NET} }} final_dnn {NET} }}',
    "MultiTowerDIN": ALL + f"""multi_tower {{ towers {{ input: "all" dnn {NET} }} final_dnn {NET}
        din_towers {{ input: "din" dnn {{ hidden_units: [8, 1] }} }} }}
        seq_att_groups {{ group_name: "din" seq_att_map {{ key: "item" hist_seq: "seen" }} }}""",
    "DCN": ALL + f"""dcn {{ deep_tower {{ input: "all" dnn {NET} }} cross_tower {{ input: "all" }}
        final_dnn {NET} }} losses {{ loss_type: BINARY_FOCAL_LOSS binary_focal_loss {{ gamma: 1 }} }}
        losses {{ loss_type: PAIR_WISE_LOSS weight: 0.5 }}""",
    "DLRM": """feature_groups { group_name: "sparse" feature_names: ["who", "town", "item"] }
        feature_groups { group_name: "dense" feature_names: "price" }
        dlrm { bot_dnn { hidden_units: [4, 8] } top_dnn { hidden_units: 4 } }""",
    "RocketLaunching": ALL + f"""rocket_launching {{ share_dnn {NET} booster_dnn {NET} light_dnn {NET}
        feature_based_distillation: true }}""",
    "SimpleMultiTask": ALL + f"simple_multi_task {{ {TASKS} }}",
    "MMoE": ALL + f"mmoe {{ expert_dnn {NET} num_expert: 2 {TASKS} }}",
    "PLE": ALL + f"""ple {{ extraction_networks {{ network_name: "one" expert_num_per_task: 2
        share_num: 1
        task_expert_net {NET} share_expert_net {NET} }} {TASKS} }}""",
    "DBMTL": ALL + f"""dbmtl {{ bottom_dnn {NET} expert_dnn {NET} num_expert: 2 {TASKS.replace("LAST",
        'relation_tower_names: "ctr" relation_dnn { hidden_units: 4 activation: "dice" } num_class: 2 '
        'losses { loss_type: JRC_LOSS jrc_loss { session_name: "who" } }')} }}""",
    "ESMM": ALL + f"""esmm {{ groups {{ input: "all" dnn {NET} }} ctr_tower {{ {HEADS} }}
        cvr_tower {{ tower_name: "cvr" }} }}""",
    "DSSM": SIDES + f"""dssm {{ user_tower {{ id: "who" dnn {NET} }} temperature: 0.1
        item_tower {{ id: "item" dnn {NET} }} }} loss_type: SOFTMAX_CROSS_ENTROPY""",
    "DAT": SIDES + """feature_groups { group_name: "user_id_augment" feature_names: "who" }
        feature_groups { group_name: "item_id_augment" feature_names: "item" }
        dat { user_tower { id: "who" dnn { hidden_units: [4, 8] } }
              item_tower { id: "item" dnn { hidden_units: [4, 8] } } }""",
    "MIND": SIDES.replace("PAST", "") + f"""
        feature_groups {{ group_name: "hist" feature_names: "seen" }}
        mind {{ user_dnn {NET} item_dnn {NET} concat_dnn {NET} pre_capsule_dnn {NET}
                capsule_config {{ max_k: 2 max_seq_len: 10 high_dim: 4 }} }}""",
    "DropoutNet": SIDES.replace('"user"', '"user_content"').replace('"item" f', '"item_content" f')
        + f"""
        feature_groups {{ group_name: "item_preference" feature_names: "item" }}
        dropoutnet {{ user_content {NET} item_content {NET} item_preference {NET} user_tower {NET}
                      item_tower {NET} }} losses {{ loss_type: CLASSIFICATION }}""",
    "CMBF": """feature_groups { group_name: "general" feature_names: ["who", "town"] }
        feature_groups { group_name: "text" feature_names: "seen" }
        feature_groups { group_name: "other" feature_names: "price" }
        cmbf { config { text_head_size: 4 image_cross_head_size: 4 text_cross_head_size: 4
          max_position_embeddings: 10 other_feature_dnn { hidden_units: 4 } }
          final_dnn { hidden_units: 8 } }""",
}


def config_of(name: str, more: str = "") -> str:
    model = MODELS[name].replace("PAST", PAST).replace("LAST", "dnn { hidden_units: 4 use_bn: false }")
    return HEAD.replace("MORE", more) + f'model_config {{ model_class: "{name}" {model} }}'


@pytest.mark.parametrize("name", MODELS)
def test_a_config_is_read_built_and_trained(name):
    built = three_steps(read_easyrec_config(config_of(name)))
    theirs = {"DCN": "DCNV1"}.get(name, name)
    assert type(built.model).__name__ == theirs
    report = easyrec_report(config_of(name))
    assert not (report.effect == "refused").any() and "DNN.use_bn" in set(report.field)
    norms = [one for one in built.model.modules() if "Norm" in type(one).__name__ or "Dice" in type(
        one).__name__]
    assert norms


def test_rows_of_a_file_train_a_ranking_model(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.integers(1, 9, 300) for name in ("who", "town", "item")})
    rows = rows.assign(click=rng.integers(2, size=300), buy=0, price=rng.random(300) * 10)
    lists = [rng.integers(1, 9, rng.integers(1, 5)).astype(str) for _ in range(600)]
    joined = ["|".join(one) for one in lists]
    rows["tags"], rows["seen"] = joined[:300], joined[300:]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    built = build(read_easyrec_config(config_of("MultiTower")), tmp_path / "rows.csv", progress=False)
    assert built.data.train.jagged["seen"].to_lists()[0] == [int(one) for one in lists[300]]
    price = built.data.train.dense[:, 0].numpy()
    assert np.abs(price - rows.price / 10).max() < 1e-6
    assert any("FNV-1a" in note for note in built.notes)
    history = built.trainer.fit()
    assert np.isfinite(history["loss"]).all() and len(history) == 1


def test_a_sampler_and_weights_are_kept():
    sampler = """sample_weight: "price" negative_sampler { input_path: "items" num_sample: 20
        attr_fields: ["item", "tags"] item_id_field: "item" }"""
    read = read_easyrec_config(config_of("DSSM", sampler))
    assert read.data_config.negative_sampler.num_sample == 20
    assert not read.model_config.dssm.in_batch_negative
    assert read.data_config.sample_weight_fields == ["price"]
    weighed = read_easyrec_config(config_of("MMoE", 'sample_weight: "price"'))
    assert [one.sample_weight_name for one in weighed.model_config.mmoe.task_towers] == ["price"] * 2


@pytest.mark.parametrize("kind", ["unknown", "type", "deep", "long", "binary"])
def test_hostile_configs_get_a_clear_error_within_a_second(kind):
    rng, text = random.Random(0), config_of("DBMTL")
    for _ in range(30):
        wrong, start = hostile(text, kind, rng), time.process_time()
        with pytest.raises(ValueError) as error: read_easyrec_config(wrong)
        assert time.process_time() - start < 1 and 10 < len(str(error.value)) < 1500
