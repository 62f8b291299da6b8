"""A training step of a linear layer whose width is no multiple of 16, with results in aligned rows and
without.

    python benchmarks/aligned_rows.py [--rounds 7]

`recbench.layers.mlp.Linear` against `torch.nn.Linear`, forward and backward with the gradient of the
input, 8,192 rows, float32, one thread, CPU time, taking turns. The widths are those of workload S1: 26
embeddings of width 16 and 13 numbers are 429 columns, which a full cross layer maps onto themselves and
the first layer of a tower to 256. At 432 columns the two layers do the same, which shows the noise.
"""

import argparse

from _timing import interleaved, ratio, verdict

ROWS, WIDTHS, AT_MOST = 8192, ((429, 429), (429, 256), (432, 432)), {(429, 429): 0.85, (429, 256): 1.0}


def step(layer, x, gradient):
    "Forward and backward; the gradients are thrown away."
    layer(x).backward(gradient)
    layer.zero_grad()
    x.grad = None


def main() -> None:
    import torch

    from recbench.core.heap import keep_freed_memory
    from recbench.layers.mlp import Linear
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    for width, out in WIDTHS:
        torch.manual_seed(0)
        x, gradient = torch.randn(ROWS, width, requires_grad=True), torch.randn(ROWS, out)
        layers = {"aligned": Linear(width, out), "plain": torch.nn.Linear(width, out)}
        took = interleaved(
            {name: lambda layer=layer: step(layer, x, gradient) for name, layer in layers.items()},
            rounds,
        )
        found, name = ratio(took, "aligned", "plain"), f"{width} to {out}: aligned rows against plain"
        if (width, out) in AT_MOST:verdict(name, found, at_most=AT_MOST[width, out])
        else: print(f"{name} ratio {found:.3g} (no target)")


if __name__ == "__main__":
    main()
