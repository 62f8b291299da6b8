"""Sequence encoders on packed positions against the same encoders on the padded rectangle.

    python benchmarks/sequence_encoders.py [--rows 1024] [--longest 50] [--width 32] [--rounds 15]

Rows of 0 to `longest` positions, evenly spread; forward and backward to query, sequence and parameters;
float32, CPU time of one thread, the contenders taking turns. All forms of an encoder hold the same
parameters and are compared before.

wide         the first layer of the MLP sees [q, s, q - s, q * s] at every position
split        its matrix is cut into the query's part, done once a row, and the parts of the position and
             of the product
packed       work on the positions that exist; the encoders of recbench, given packed positions or a
             padded rectangle
mha          three linear maps and `nn.MultiheadAttention` on the rectangle, keys masked, padding left
             out of the mean

Targets: DIN at most 0.5 of the padded wide form; self-attention at most 0.75 of mha at 64 columns, 0.35
at 512.
"""

import argparse
from collections.abc import Callable, Mapping
from statistics import median

import torch
import torch.nn.functional as F
from _timing import interleaved, ratio, verdict
from torch import Tensor, nn

from recbench.layers import DINEncoder, PoolingEncoder, SelfAttentionEncoder, SimpleAttention
from recbench.layers.sequences import pack


class World:
    "A ragged batch, packed and padded."

    def __init__(self, rows: int, longest: int, width: int):
        self.lengths = torch.randint(0, longest + 1, (rows,))
        self.valid = torch.arange(longest) < self.lengths[:, None]                    # [B, T]
        self.padded = torch.randn(rows, longest, width) * self.valid[..., None]       # [B, T, s]
        self.packed, self.query = self.padded[self.valid], torch.randn(rows, width)   # [V, s], [B, s]

    def call(
        self, form: Callable[[Tensor, Tensor], Tensor], sequence: Tensor, parameters: list[Tensor]
    ) -> Callable[[], Tensor]:
        "Forward and backward of `form(query, sequence)`; its output."
        def run() -> Tensor:
            inputs = [self.query.detach().requires_grad_(), sequence.detach().requires_grad_()]
            out = form(*inputs)
            torch.autograd.grad(out.square().sum(), [*inputs, *parameters], allow_unused=True)
            return out
        return run

    def encode(self, encoder: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda query, sequence: encoder(
            {"h.query": query, "h.sequence": sequence, "h.sequence_length": self.lengths}
        )


def masked_mean(world: World, scores: Tensor, sequence: Tensor) -> Tensor:
    "Softmax over the rectangle [B, T] with masked padding, and the weighted mean."
    weights = scores.masked_fill(~world.valid, torch.finfo(scores.dtype).min).softmax(1) * world.valid
    return (weights[:, None] @ sequence)[:, 0]


def din_forms(world: World, hidden: list[int]) -> dict[str, Callable[[], Tensor]]:
    width = world.query.shape[1]
    encoder = DINEncoder(width, width, "h", {"hidden_units": hidden})
    parameters = list(encoder.parameters())

    def score(query: Tensor, sequence: Tensor) -> Tensor:
        return encoder.linear(
            encoder.mlp(torch.cat([query, sequence, query - sequence, query * sequence], -1))
        )[..., 0]

    def padded_wide(query: Tensor, sequence: Tensor) -> Tensor:
        return masked_mean(world, score(query[:, None].expand_as(sequence), sequence), sequence)

    def padded_split(query: Tensor, sequence: Tensor) -> Tensor:
        of_query, of_item, of_difference, of_product = encoder.mlp[0][0].weight.chunk(4, 1)
        per_row = F.linear(query, of_query + of_difference, encoder.mlp[0][0].bias)[:, None]
        x = (
            per_row
            + F.linear(sequence, of_item - of_difference)
            + F.linear(query[:, None] * sequence, of_product)
        )
        for layer in (*list(encoder.mlp[0])[1:], *list(encoder.mlp)[1:]): x = layer(x)
        return masked_mean(world, encoder.linear(x)[..., 0], sequence)

    def packed_wide(query: Tensor, sequence: Tensor) -> Tensor:
        ragged = pack(sequence, world.lengths)
        return ragged.blend(ragged.softmax(score(ragged.spread(query), sequence)))

    return {
        "DIN padded wide": world.call(padded_wide, world.padded, parameters),
        "DIN padded split": world.call(padded_split, world.padded, parameters),
        "DIN packed wide": world.call(packed_wide, world.packed, parameters),
        "DINEncoder": world.call(world.encode(encoder), world.packed, parameters),
        "DINEncoder of padded": world.call(world.encode(encoder), world.padded, parameters),
    }


def plain_forms(world: World) -> dict[str, Callable[[], Tensor]]:
    width = world.query.shape[1]
    attention = world.encode(SimpleAttention(width, width, "h"))
    return {
        "dot padded": world.call(
            lambda query, sequence: masked_mean(
                world, (sequence @ query[:, :, None])[..., 0], sequence
            ),
            world.padded,
            [],
        ),
        "SimpleAttention": world.call(attention, world.packed, []),
        "SimpleAttention of padded": world.call(attention, world.padded, []),
        "sum padded": world.call(
            lambda query, sequence: (sequence * world.valid[..., None]).sum(1), world.padded, []
        ),
        "PoolingEncoder": world.call(world.encode(PoolingEncoder(width, "h", "sum")), world.packed, []),
    }


def attention_forms(world: World, width: int, heads: int) -> dict[str, Callable[[], Tensor]]:
    encoder = SelfAttentionEncoder(world.query.shape[1], "h", width, heads)
    parameters = list(encoder.parameters())
    masked = ~world.valid
    masked[:, 0] = False    # a key for the empty rows

    def mha(query: Tensor, sequence: Tensor) -> Tensor:
        out, _ = encoder.multihead_attn(
            encoder.query(sequence),
            encoder.key(sequence),
            encoder.value(sequence),
            key_padding_mask=masked,
            need_weights=False,
        )
        return (out * world.valid[..., None]).sum(1) / world.lengths.clamp(min=1)[:, None]

    return {
        f"mha {width}/{heads}": world.call(mha, world.padded, parameters),
        f"SelfAttentionEncoder {width}/{heads}": world.call(
            world.encode(encoder), world.packed, parameters
        ),
    }


def race(
    forms: Mapping[str, Callable[[], Tensor]], groups: list[list[str]], rounds: int
) -> dict[str, list[float]]:
    "Forms of one group must agree; then they take turns."
    for first, *others in groups:
        for other in others:
            torch.testing.assert_close(forms[other](), forms[first](), rtol=1e-4, atol=1e-5)
    took = interleaved(forms, rounds)
    for names in groups:
        for name in names:
            print(
                f"{name:28s} {median(took[name]) * 1e3:8.2f} ms   {ratio(took, name, names[-1]):6.2f} "
                f"of {names[-1]}"
            )
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rows", 1024), ("longest", 50), ("width", 32), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    world, small = World(args.rows, args.longest, args.width), World(
        args.rows // 4, args.longest, args.width
    )
    print(
        f"{args.rows} rows, {len(world.packed)} positions of width {args.width}; MLP 64-32; mha 512/8 "
        f"with {args.rows // 4} rows"
    )
    din, plain = din_forms(world, [64, 32]), plain_forms(world)
    narrow, wide = attention_forms(world, 64, 4), attention_forms(small, 512, 8)
    took = race(
        din | plain,
        [
            [name for name in din if name != "DINEncoder"] + ["DINEncoder"],
            ["dot padded", "SimpleAttention of padded", "SimpleAttention"],
            ["sum padded", "PoolingEncoder"],
        ],
        args.rounds,
    )
    took |= race(narrow | wide, [list(narrow), list(wide)], max(args.rounds // 3, 3))
    verdict("DINEncoder / DIN padded wide", ratio(took, "DINEncoder", "DIN padded wide"), at_most=0.5)
    for forms, most in ((narrow, 0.75), (wide, 0.35)):
        verdict(" / ".join(reversed(forms)), ratio(took, *reversed(forms)), at_most=most)


if __name__ == "__main__":
    main()
