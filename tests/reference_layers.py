"Reference checks of `recbench.layers`."
import math
import re
import warnings
from collections.abc import Callable
from functools import partial

import torch
from reference_common import SUM_ATOL, Report, Unsupported, same, tensor
from torch import Tensor, nn

from recbench.interop.tzrec_weights import rename
from recbench.layers import (
    CIN,
    MLP,
    Cross,
    CrossV2,
    ExtractionNet,
    FactorizationMachine,
    FactorizationMachineBlock,
    InteractionArch,
    Intervention,
    LinearCompressBlock,
    MaskBlock,
    MaskNetModule,
    MMoE,
    VariationalDropout,
    WuKongLayer,
)
from recbench.layers.mask_net import aggregation_width


def check_variational_dropout(content: dict, report: Report) -> None:
    layer = VariationalDropout(
        content["dims"], regularization_lambda=content["lambda"], temperature=content["temperature"]
    )
    x = tensor(content["x"])
    for i, stored in enumerate(content["cases"]):
        with report.case(f"feature_p_{i}"):
            layer.load_state_dict({"feature_p": tensor(stored["feature_p"])})
            output, penalty = layer.eval()(x)
            same(output, stored["eval_output"], "output in eval")
            same(penalty, stored["eval_penalty"], "penalty in eval")
            layer.zero_grad()
            output, penalty = layer.train()(x, noise=tensor(stored["train_uniform_noise"]))
            same(output, stored["train_output"], "output in train")
            same(penalty, stored["train_penalty"], "penalty in train")
            (output.sum() + penalty).backward()
            same(
                layer.feature_p.grad,
                stored["grad_feature_p_of_sum(train_out)+penalty"],
                "gradient",
                SUM_ATOL,
            )


State = dict[str, Tensor]                           # of TorchEasyRec
Make = Callable[
    [str, State, list[Tensor]], nn.Module
]  # from the name, the tensors and the inputs of a case


def here(name: str) -> str:
    "A tensor's name in recbench."
    return rename(
        re.sub(r"\b_(shared|task)_(layers|gates?)\b", r"\1_\2", name).replace(
            "feature_out_liner", "output"
        ),
        set(),
    )


def positions(state: dict) -> Callable[[str], str]:
    """Renames tensors of a perceptron for 3-D inputs, where batch norm stands between two transposes
    that count as positions.
    """
    if not any(name.endswith(".perceptron.2.running_mean") for name in state): return str
    return lambda name: re.sub(
        r"(?<=\.perceptron\.)[24]", lambda position: str(int(position[0]) // 2), name
    )


def numbered(state: State, pattern: str) -> list[Tensor]:
    "Tensors whose whole name is the pattern, in the order of the number in it."
    found = {
        int(match[1]): value for name, value in state.items() if (match := re.fullmatch(pattern, name))
    }
    return [found[i] for i in sorted(found)]


def below(state: State, prefix: str) -> State:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def mlp_settings(state: State, prefix: str = "", activation: str = "nn.ReLU") -> dict:
    "What an MLP is made with, as its tensors tell."
    names = below(state, f"{prefix}mlp.")
    hidden = [len(weight) for weight in numbered(names, r"(\d+)\.perceptron\.0\.weight")]
    norm = "0.perceptron.1.weight" in names
    use_bn = "0.perceptron.1.running_mean" in names
    if any(name.endswith(".alpha") for name in names): activation = "Dice"
    return {
        "hidden_units": hidden,
        "bias": "0.perceptron.0.bias" in names,
        "activation": activation,
        "use_bn": use_bn,
        "use_ln": norm and not use_bn,
    }


def probe(outputs: list[Tensor]) -> Tensor:
    "The scalar whose gradients the files hold."
    flats = [output.flatten() for output in outputs]
    return sum((flat * torch.arange(1, len(flat) + 1) / len(flat)).sum() for flat in flats)


def check_module(name: str, case: dict, make: Make) -> None:
    "Outputs of the module that a case describes, and gradients for its inputs and parameters."
    place = positions(case["state_dict"])
    state = {place(key): tensor(value) for key, value in case["state_dict"].items()}
    inputs = [tensor(value).requires_grad_() for value in case["inputs"]]
    module = make(name, state, inputs).train("train" in name)
    module.load_state_dict({here(key): value for key, value in state.items()}, strict=True)
    outputs = module(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    for i, (output, expected) in enumerate(zip(outputs, case["outputs"], strict=True)):
        same(output, expected, f"output {i}")
    probe(outputs).backward()
    parameters = dict(module.named_parameters())
    grads = {f"input {i}": (inputs[i].grad, expected) for i, expected in enumerate(case["grad_inputs"])}
    grads |= {
        key: (parameters[here(place(key))].grad, expected)
        for key, expected in case["grad_params"].items()
    }
    for what, (gradient, expected) in grads.items():
        if expected is None:assert gradient is None, f"{what} has a gradient"
        else: same(gradient, expected, f"gradient of {what}", SUM_ATOL)


def check_modules(content: dict, report: Report, make: Make) -> None:
    for name, case in content.items():
        if not isinstance(case, dict) or "outputs" not in case: continue
        with report.case(name): check_module(name, case, make)


def make_pairs(name: str, state: State, inputs: list[Tensor]) -> nn.Module:
    return InteractionArch(inputs[0].shape[1]) if "interaction" in name else FactorizationMachine()


def check_pairs(content: dict, report: Report) -> None:
    check_modules(content, report, make_pairs)
    if "triu_order" not in content: return
    with report.case("triu_order"):
        row, column = tensor(content["triu_order"])
        same(
            InteractionArch(int(column.max()) + 1).pairs,
            row * (column.max() + 1) + column,
            "order of the pairs",
        )


def make_cross(name: str, state: State, inputs: list[Tensor]) -> nn.Module:
    width, low = inputs[0].shape[1], numbered(state, r"u_kernels\.(\d+)\.weight")
    return (
        CrossV2(width, len(low), len(low[0]))
        if low
        else Cross(width, len(numbered(state, r"w\.(\d+)\.weight")))
    )


def make_cin(name: str, state: State, inputs: list[Tensor]) -> nn.Module:
    return CIN(
        inputs[0].shape[1], [len(weight) for weight in numbered(state, r"cin_layers\.(\d+)\.weight")]
    )


def make_mask_net(name: str, state: State, inputs: list[Tensor]) -> nn.Module:
    if "ffn.0.weight" in state:
        return MaskBlock(inputs[0].shape[1], inputs[1].shape[1], **mask_block_settings([state]))
    blocks = [
        below(state, f"mask_blocks.{i}.")
        for i in range(len(numbered(state, r"mask_blocks\.(\d+)\.ffn\.0\.weight")))
    ]
    top = below(state, "top_mlp.")
    return MaskNetModule(
        inputs[0].shape[1],
        len(blocks),
        mask_block_settings(blocks),
        mlp_settings(top) if top else None,
        use_parallel="serial" not in name,
    )


def mask_block_settings(blocks: list[State]) -> dict:
    """Hidden width, and a ratio that gives all the blocks their aggregation width.

    If there is none, that width.
    """
    shapes = [block["mask_generator.2.weight"].shape for block in blocks]  # [mask, aggregation]
    low, high = max(units / width for width, units in shapes), min(
        (units + 1) / width for width, units in shapes
    )
    hidden = len(blocks[0]["ffn.0.weight"])
    return (
        {"hidden_dim": hidden, "reduction_ratio": (low + high) / 2}
        if low < high
        else {"hidden_dim": hidden, "reduction_ratio": 0, "aggregation_dim": shapes[0][1]}
    )


def check_mask_net(content: dict, report: Report) -> None:
    check_modules(content, report, make_mask_net)
    for name, case in content.items():
        if "aggregation_dim_used" not in case: continue
        with report.case(name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ratio, given = map(float, re.search(r"rr([\d.]+)_agg(\d+)", name).groups())
            used = case["aggregation_dim_used"]
            assert aggregation_width(math.ceil(used / ratio), ratio, int(given)) == used


def make_wukong(name: str, state: State, inputs: list[Tensor]) -> nn.Module:
    width = inputs[0].shape[2]
    if set(state) == {"weight"}: return LinearCompressBlock(*state["weight"].shape)
    fmb = below(state, "fmb.") or state
    rows, settings = len(fmb["feature_out_liner.weight"]) // width, mlp_settings(below(fmb, "mlp."))
    fields, mixtures = fmb["weight"].shape
    if "lcb.weight" not in state:
        return FactorizationMachineBlock(width, fields, rows, mixtures, settings)
    return WuKongLayer(width, fields, state["lcb.weight"].shape[1], rows, mixtures, settings)


def leaky_slope(case: dict) -> str:
    "A leaky activation whose slope is read from the outputs, for a single layer."
    weight, bias = (
        tensor(case["state_dict"].get(f"mlp.0.perceptron.0.{part}")) for part in ("weight", "bias")
    )
    before, after = torch.nn.functional.linear(tensor(case["inputs"][0]), weight, bias), tensor(
        case["outputs"][0]
    )
    lowest = before.argmin()
    slope = (after.flatten()[lowest] / before.flatten()[lowest]).item()
    return f"nn.LeakyReLU(negative_slope={slope:.4g})"


def make_tower(name: str, state: State, inputs: list[Tensor], activation: str = "nn.ReLU") -> nn.Module:
    if "base_rotate_layer.parametrizations.weight.original" in state:
        return Intervention(
            inputs[0].shape[1],
            inputs[1].shape[1],
            state["base_rotate_layer.parametrizations.weight.original"].shape[1],
        )
    return MLP(inputs[0].shape[-1], **mlp_settings(state, activation=activation))


WRONG_LAYERS = {
    "bn_and_ln": lambda: MLP(4, [3], use_bn=True, use_ln=True),
    "dropout_len": lambda: MLP(4, [3, 3, 3], dropout_ratio=[0.1, 0.1]),
    "bad_act": lambda: MLP(4, [3], activation="nn.Nope"),
}


def check_towers(content: dict, report: Report) -> None:
    for name, case in content.items():
        if "outputs" not in case: continue
        activation = leaky_slope(case) if "leaky" in name else "nn.ReLU"
        with report.case(name): check_module(name, case, partial(make_tower, activation=activation))
    for name in content.get("errors", {}):
        with report.case(f"errors/{name}"):
            if name not in WRONG_LAYERS: raise Unsupported("no such layer")
            try: WRONG_LAYERS[name]()
            except ValueError: continue
            raise AssertionError("accepted")


def make_experts(name: str, state: State, inputs: list[Tensor]) -> nn.Module:
    experts, gates = (
        len(numbered(state, pattern))
        for pattern in (
            r"expert_mlps\.(\d+)\.mlp\.0\.perceptron\.0\.weight",
            r"gate_finals\.(\d+)\.weight",
        )
    )
    gate = below(state, "gate_mlps.0.")
    return MMoE(
        inputs[0].shape[1],
        mlp_settings(state, "expert_mlps.0."),
        experts,
        gates,
        mlp_settings(gate) if gate else None,
    )


class Extraction(nn.Module):
    "Extraction networks `l0`, `l1`, ... on one input; the outputs of all of them."

    def __init__(self, state: State):
        super().__init__()
        for i in range(1 + max(int(name[1 : name.index(".")]) for name in state)):
            self.add_module(f"l{i}", self.make_layer(below(state, f"l{i}.")))

    @staticmethod
    def make_layer(state: State) -> ExtractionNet:
        shared = numbered(state, r"_shared_layers\.(\d+)\.mlp\.0\.perceptron\.0\.weight")
        own = numbered(state, r"_task_layers\.0\.(\d+)\.mlp\.0\.perceptron\.0\.weight")
        widths = [gate.shape[1] for gate in numbered(state, r"_task_gates\.(\d+)\.weight")]
        return ExtractionNet(
            widths,
            shared[0].shape[1],
            len(shared),
            len(own),
            mlp_settings(state, "_shared_layers.0."),
            mlp_settings(state, "_task_layers.0.0."),
            "_shared_gate.weight" not in state,
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        tasks, shared, outputs = None, x, []
        for layer in self.children():
            tasks, shared = layer(tasks or [x] * len(layer.task_gates), shared)
            outputs += tasks if shared is None else [*tasks, shared]
        return outputs


CHECKERS = {
    "variational_dropout*": check_variational_dropout,
    "fm_interaction*": check_pairs,
    "cross*": partial(check_modules, make=make_cross),
    "cin*": partial(check_modules, make=make_cin),
    "masknet*": check_mask_net,
    "wukong*": partial(check_modules, make=make_wukong),
    "mlp_towers*": check_towers,
    "mmoe_ple*": partial(check_modules, make=make_experts),
    "ple_extraction*": partial(check_modules, make=lambda name, state, inputs: Extraction(state)),
}
