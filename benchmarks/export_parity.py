"""Do exported programs answer as the models do? Every model of the zoo, every form, hard rows.

    python benchmarks/export_parity.py [--models DSSM DeepFM ...] [--forms export onnx aot]

A line a part: the greatest difference over batches of 1, 7 and 1024 rows, rows without any list, and
rows of unknown tokens only, as a share of the greatest number where that is above 1. `-`: the form
cannot hold the model, with the reason. `aot` compiles for ten seconds and more a part.
"""
import argparse
import tempfile
import time
from pathlib import Path

import torch

from recbench.data.published.planted import planted, planted_clicks
from recbench.data.rows.batch import make_batch
from recbench.data.sets.dataset import pair_rows
from recbench.export.exported import ENDINGS, LOADERS
from recbench.export.inputs import tensors_of
from recbench.export.parity import difference, hard_tables
from recbench.export.program import export_program, write_form
from recbench.export.wrappers import ScriptWrapper, TowerWrapper, input_specs
from recbench.models.match_configs import MATCH_CONFIGS
from recbench.models.rank_configs import RANK_CONFIGS
from recbench.models.task_configs import TASK_CONFIGS
from recbench.models.usual import usual_model


def parts(name: str):
    "Name, wrapper and rows of each part of a model."
    world = planted_clicks(users=60, items=90) if name in TASK_CONFIGS else planted(users=60, items=90)
    model, places = usual_model(name, world).eval(), torch.arange(40)
    if name in MATCH_CONFIGS:
        for side, table in (("user", world.user_rows("valid", places)), ("item", world.items)):
            tower = TowerWrapper(model, f"{side}_tower")
            yield f"{name} {side}", ScriptWrapper(tower, input_specs(model, side)), table
    else:
        model.init_loss()
        yield name, ScriptWrapper(model), pair_rows(world, "valid", places)


def worst(module: ScriptWrapper, tables: dict, run, outputs: list[str]) -> float:
    "The greatest difference of a program from its model."
    found = []
    for table in tables.values():
        with torch.no_grad(): wanted = module.model(make_batch(table))
        answers = run(list(tensors_of(table, module.specs).values()))
        found += [difference(value, wanted[name]) for name, value in zip(outputs, answers)]
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = [name for name in (*MATCH_CONFIGS, *RANK_CONFIGS, *TASK_CONFIGS) if name != "TDM"]
    parser.add_argument("--models", nargs="*", default=everything)
    parser.add_argument("--forms", nargs="*", default=["export", "onnx"], choices=list(LOADERS))
    asked = parser.parse_args()
    for name in asked.models:
        for part, module, table in parts(name):
            line, start = [], time.process_time()
            try: program, outputs = export_program(module)
            except Exception as error:
                told = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
                print(f"{part:24s} cannot be traced: {told}", flush=True)
                continue
            names = [one for spec in module.specs for one in spec.tensor_names]
            tables = hard_tables(table, (1, 7, 1024))
            for form in asked.forms:
                with tempfile.TemporaryDirectory() as home:
                    path = Path(home) / f"part.{ENDINGS[form]}"
                    try:
                        write_form(form, program, path, names, outputs)
                        found = worst(module, tables, LOADERS[form](path, names), outputs)
                        line.append(f"{form} {found:.1e}")
                    except Exception as error:
                        told = " ".join(str(error).split())[:90]
                        line.append(f"{form} - ({type(error).__name__}: {told})")
            print(f"{part:24s} {'  '.join(line)}  {time.process_time() - start:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
