"Reference checks of models of several tasks: what EasyRec's own layers gave, with gradients."
import re

import torch
from reference_common import Report, tensor
from torch.testing import assert_close

from recbench.core.config import MLPConfig
from recbench.core.textproto import parse_textproto
from recbench.layers.transfer import TaskTransfer

NEAR = {"rtol": 1e-6, "atol": 1e-6}  # stored in float32, computed here in float64


def transfer_mlp(config: str) -> dict | None:
    "Settings of an `MLP` from EasyRec's message, whose layers have no bias unless it is asked for."
    found = re.search(r"transfer_mlp\s*\{(.*)\}", config)
    if not found: return None
    text = re.sub(r"use_final_bn:\s*\w+", "", found[1])
    return MLPConfig(**{"bias": False, **parse_textproto(text, MLPConfig)}).model_dump()


def load_tower(layer: TaskTransfer, weights: dict) -> None:
    "EasyRec's weights; the queries of what is handed on are computed there and never used."
    places = {"query_0": layer.query}
    places |= {f"key_{j}": key for j, key in enumerate(layer.keys)} | {
        f"value_{j}": value for j, value in enumerate(layer.values)
    }
    if layer.transfer is not None:
        places |= {f"transfer/layer_{j}/dense": block[0] for j, block in enumerate(layer.transfer)}
    with torch.no_grad():
        for name, linear in places.items():
            linear.weight.copy_(tensor(weights[f"AITMTower/{name}/kernel"]).T)
            if linear.bias is not None: linear.bias.copy_(tensor(weights[f"AITMTower/{name}/bias"]))


def check_aitm(content: dict, report: Report) -> None:
    for case in content["cases"]:
        with report.case(case["name"]):
            own, *handed = [tensor(rows).double().requires_grad_() for rows in case["inputs"]]
            layer = TaskTransfer(
                own.shape[1],
                [rows.shape[1] for rows in handed],
                transfer_mlp=transfer_mlp(case["config"]),
            ).double()
            load_tower(layer, case["weights"])
            out = layer(own, handed)
            assert_close(
                out, tensor(case["output"]).double(), **NEAR, msg=lambda text: f"output: {text}"
            )
            gradients = torch.autograd.grad(out.square().sum(), [own, *handed], allow_unused=True)
            for place, (found, stored) in enumerate(
                zip(gradients, case["input_gradients_of_sum_of_squares"], strict=True)
            ):
                assert (found is None) == (stored is None), f"gradient of input {place} is there or not"
                if stored is not None:
                    assert_close(
                        found,
                        tensor(stored).double(),
                        **NEAR,
                        msg=lambda text, place=place: f"gradient of input {place}: {text}",
                    )


CHECKERS = {"aitm*": check_aitm}
