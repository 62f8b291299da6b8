"""Forward and backward pass of the interaction layers against the same mathematics written directly.

    python benchmarks/interactions.py [--rows 2048] [--rounds 7]

26 fields of width 16, one thread, in turn; CPU time. Targets: 0.6 of the time for pair products and
cross layers, a fifth for CIN.
"""

import argparse
from collections.abc import Callable
from itertools import combinations
from statistics import median

import torch
from _timing import interleaved, ratio, verdict
from torch import Tensor, nn

from recbench.layers import CIN, Cross, FactorizationMachine, InteractionArch

FIELDS, WIDTH = 26, 16
Form = Callable[[Tensor], Tensor]


def pair_loop(x: Tensor) -> Tensor:
    return torch.stack([x[:, f] * x[:, g] for f, g in combinations(range(x.shape[1]), 2)]).sum(0)


def triangle(x: Tensor) -> Tensor:
    row, column = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return torch.bmm(x, x.transpose(1, 2))[:, row, column]


def cross_by_layer(layer: Cross, x_0: Tensor) -> Tensor:
    x = x_0
    for w, b in zip(layer.w, layer.b): x = x_0 * w(x) + b + x
    return x


def cin_by_convolution(layer: CIN, x_0: Tensor) -> Tensor:
    x, pooled = x_0, []
    for convolution in layer.cin_layers:
        x = convolution((x[:, :, None] * x_0[:, None]).flatten(1, 2))
        pooled.append(x.sum(2))
    return torch.cat(pooled, 1)


def step(form: Form, x: Tensor, probe: Tensor) -> Callable[[], None]:
    "A forward and backward pass; gradients start empty each time."
    def run() -> None:
        x.grad = None
        form(x).backward(probe)
    return run


def compare(name: str, layer: nn.Module, direct: Form, x: Tensor, rounds: int, at_most: float) -> None:
    "Equal numbers first, then the time of both."
    expected = direct(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-3)
    probe = torch.randn_like(expected)
    took = interleaved({"direct": step(direct, x, probe), "recbench": step(layer, x, probe)}, rounds)
    print(f"{name:40s}", *(f"{form} {median(seconds) * 1e3:7.1f} ms" for form, seconds in took.items()))
    verdict(name, ratio(took, "recbench", "direct"), at_most=at_most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rows", 2048), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    fields, flat = (
        torch.randn(args.rows, *shape, requires_grad=True)
        for shape in ((FIELDS, WIDTH), (FIELDS * WIDTH + 13,))
    )
    cross, cin = Cross(flat.shape[1], 3), CIN(FIELDS, [64, 64])
    compare(
        "FactorizationMachine / pair loop", FactorizationMachine(), pair_loop, fields, args.rounds, 0.6
    )
    compare("InteractionArch / Z[:, i, j]", InteractionArch(FIELDS), triangle, fields, args.rounds, 0.6)
    compare(
        "Cross, 3 layers / layer by layer",
        cross,
        lambda x: cross_by_layer(cross, x),
        flat,
        args.rounds,
        0.6,
    )
    compare(
        "CIN [64, 64] / convolution",
        cin,
        lambda x: cin_by_convolution(cin, x),
        fields,
        args.rounds,
        0.2,
    )


if __name__ == "__main__":
    main()
