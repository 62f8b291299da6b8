"""Do exported programs answer as the models do? Every model of the zoo, every form, hard rows.

    python benchmarks/export_parity.py [--models DSSM DeepFM ...] [--forms export onnx aot]

A line a part: the greatest difference over batches of 1, 7 and 1024 rows, rows without any list, and
rows of unknown tokens only, as a share of the greatest number where that is above 1. `-`: the form
cannot hold the model, with the reason. `aot` compiles for ten seconds and more a part. What is found is
kept in `benchmarks/results/export`, of which `scripts/results.py` makes the table of forms.
"""
import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from recbench.core.config import ModelConfig
from recbench.data.feed.tree import category_tree
from recbench.data.feed.tree_nodes import tree_features
from recbench.data.published.planted import planted, planted_clicks
from recbench.data.rows.batch import make_batch
from recbench.data.rows.features import Feature, RawFeature, with_embedding_dim
from recbench.data.rows.table import Jagged, Table
from recbench.data.rows.toy import toy_features
from recbench.data.sets.dataset import pair_rows
from recbench.export.exported import ENDINGS, LOADERS
from recbench.export.inputs import tensors_of
from recbench.export.parity import difference, hard_tables
from recbench.export.program import export_program, write_form
from recbench.export.wrappers import ScriptWrapper, TowerWrapper, input_specs
from recbench.models.base import BaseModel, create_model
from recbench.models.match_configs import MATCH_CONFIGS
from recbench.models.rank_configs import RANK_CONFIGS
from recbench.models.task_configs import TASK_CONFIGS
from recbench.models.tdm import TDM
from recbench.models.usual import usual_model

RECORDS = Path(__file__).parent / "results" / "export"
TOWERS = [
    {"tower_name": name, "label_name": label, "mlp": {"hidden_units": [8]},
     "losses": [{"binary_cross_entropy": {}}]}
    for name, label in (("ctr", "click"), ("cvr", "no_click"))
]
MODAL = {"text_head_size": 8, "text_multi_head_num": 2, "image_cross_head_size": 4,
         "text_cross_head_size": 8, "multi_head_num": 2, "cross_residual": True}
TOY: dict[str, tuple[dict[str, str], dict[str, Any], list[str]]] = {      # groups, settings, labels
    "CMBF": ({"image": "x", "general": "a b c", "text": "history"},
             {"cmbf": {"config": MODAL, "final": {"hidden_units": [32]}}}, ["click"]),
    "PEPNet": ({"all": "a b c x", "domain": "a", "uia": "b x"},
               {"pepnet": {"task_towers": TOWERS, "domain_input_name": "a", "task_domain_num": 10,
                           "ppnet_hidden_units": [16]}}, ["click", "no_click"]),
    "RocketLaunching": ({"all": "a b c x"}, {"rocket_launching": {
        "share_mlp": {"hidden_units": [16]}, "booster_mlp": {"hidden_units": [32, 16]},
        "light_mlp": {"hidden_units": [8]}}}, ["click"]),
}
LOSS = [{"binary_cross_entropy": {}}]


def drawn_rows(features: Sequence[Feature], rows: int = 40) -> Table:
    "Rows whose ids and numbers are drawn; a quarter of the lists is empty."
    draw, found = torch.Generator().manual_seed(0), {"id": {}, "list": {}, "number": {}}
    lengths = torch.randint(4, (rows,), generator=draw)
    for one in features:
        if isinstance(one, RawFeature):
            found["number"][one.name] = torch.randn(rows, one.value_dim, generator=draw)
        elif one.is_list:
            ids = torch.randint(one.num_buckets, (int(lengths.sum()),), generator=draw)
            found["list"][one.name] = Jagged(ids, lengths.cumsum(0) - lengths, lengths)
        else: found["id"][one.name] = torch.randint(one.num_buckets, (rows,), generator=draw)
    ids, numbers = found["id"], found["number"]
    return Table(
        rows, tuple(ids), torch.stack([*ids.values()], 1), found["list"], tuple(numbers),
        tuple(one.shape[1] for one in numbers.values()),
        torch.cat([*numbers.values()], 1) if numbers else None
    )


def toy_model(name: str) -> BaseModel:
    "A model of the toy features."
    parts, settings, labels = TOY[name]
    groups = [{"group_name": group, "feature_names": names.split()} for group, names in parts.items()]
    losses = {} if name == "PEPNet" else {"losses": LOSS}
    config = ModelConfig.from_dict({"feature_groups": groups, **settings, **losses})
    return create_model(config, toy_features(8), labels)


def tree_model() -> BaseModel:
    "Attention of a node over a user's history."
    data = planted(users=60, items=90)
    tree, features = category_tree(data.items.singles[:, -1]), tuple(data.features())
    plan = [{"group_name": "user", "feature_names": ["age_band", "country"]},
            {"group_name": "node", "feature_names": ["tree_level"]},
            {"group_name": "seq", "feature_names": ["item_id", "history"], "group_type": "SEQUENCE"}]
    config = ModelConfig.from_dict({"feature_groups": plan, "losses": LOSS, "tdm": {
        "multiwindow_din": {"windows_len": [1, 3], "attn_mlp": {"hidden_units": [4]}},
        "final": {"hidden_units": [8]}}})
    return TDM(config, tree_features(features, "item_id", tree), ["label"], tree=tree)


def item_model() -> BaseModel:
    "One vector an item."
    features = with_embedding_dim(tuple(planted(users=60, items=90).features()), 16, 0.1)
    config = ModelConfig.from_dict({
        "feature_groups": [{"group_name": "item", "feature_names": ["item_id", "category"]},
                           {"group_name": "more", "feature_names": ["brand", "log_price"]}],
        "metric_learning": {"input": "item", "highway": [{"input": "more", "emb_size": 8}],
                            "mlp": {"hidden_units": [32]}, "output_dim": 16, "info_nce_loss": {}}})
    return create_model(config, features, ["user_index"])


def several() -> BaseModel:
    "DCNV2 with two members."
    return usual_model("DCNV2", planted(users=60, items=90), members=2)


OTHERS = {"TDM": tree_model, "CoMetricLearningI2I": item_model, "Ensemble": several,
          **{name: lambda name=name: toy_model(name) for name in TOY}}
ZOO = [*dict.fromkeys((*MATCH_CONFIGS, *RANK_CONFIGS, *TASK_CONFIGS, *OTHERS))]


def parts(name: str) -> Iterator[tuple[str, ScriptWrapper, Table]]:
    "Name, wrapper and rows of each part of a model."
    torch.manual_seed(0)
    if name in OTHERS:
        model = OTHERS[name]().eval()
        model.init_loss()
        module = ScriptWrapper(model)
        read = set(module.features)
        yield "model", module, drawn_rows([one for one in model.features if one.name in read])
        return
    world = planted_clicks(users=60, items=90) if name in TASK_CONFIGS else planted(users=60, items=90)
    model, places = usual_model(name, world).eval(), torch.arange(40)
    if name in MATCH_CONFIGS:
        for side, table in (("user", world.user_rows("valid", places)), ("item", world.items)):
            tower = TowerWrapper(model, f"{side}_tower")
            yield side, ScriptWrapper(tower, input_specs(model, side)), table
    else:
        model.init_loss()
        yield "model", ScriptWrapper(model), pair_rows(world, "valid", places)


def worst(module: ScriptWrapper, tables: dict, run, outputs: list[str]) -> float:
    "The greatest difference of a program from its model."
    found = []
    for table in tables.values():
        with torch.no_grad(): wanted = module.model(make_batch(table))
        answers = run(list(tensors_of(table, module.specs).values()))
        found += [difference(value, wanted[name]) for name, value in zip(outputs, answers)]
    return max(found)


def told(error: BaseException) -> str:
    "The first cause, in a line."
    while error.__cause__ is not None: error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def tried(module: ScriptWrapper, table: Table, forms: Sequence[str]) -> dict[str, dict[str, Any]]:
    "Form -> greatest difference, or why it cannot be."
    try: program, outputs = export_program(module)
    except Exception as error: return {form: {"left out": told(error)} for form in forms}
    names = [one for spec in module.specs for one in spec.tensor_names]
    tables, found = hard_tables(table, (1, 7, 1024)), {}
    for form in forms:
        with tempfile.TemporaryDirectory() as home:
            path = Path(home) / f"part.{ENDINGS[form]}"
            try:
                write_form(form, program, path, names, outputs)
                value = worst(module, tables, LOADERS[form](path, names), outputs)
                found[form] = {"difference": float(f"{value:.1e}")}
            except Exception as error: found[form] = {"left out": told(error).replace(home, "")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=ZOO, choices=ZOO)
    parser.add_argument("--forms", nargs="*", default=["export", "onnx"], choices=list(LOADERS))
    asked = parser.parse_args()
    RECORDS.mkdir(parents=True, exist_ok=True)
    for name in asked.models:
        for part, module, table in parts(name):
            found, place = tried(module, table, asked.forms), RECORDS / f"{name}-{part}.json"
            before = json.loads(place.read_text())["forms"] if place.is_file() else {}
            record = {"model": name, "part": part, "torch": torch.__version__, "forms": before | found}
            place.write_text(json.dumps(record, indent=1) + "\n")
            print(f"{name} {part}: {found}", flush=True)


if __name__ == "__main__":
    main()
