"Reference checks of the sequence encoders of `recbench.layers`."
import re

import torch
from reference_common import SUM_ATOL, Report, Unsupported, same, tensor

from recbench.interop.tzrec_weights import rename
from recbench.layers import (
    DINEncoder,
    MultiWindowDINEncoder,
    PoolingEncoder,
    SelfAttentionEncoder,
    SequenceEncoder,
    SimpleAttention,
)


def encoder_state(stored: dict) -> dict[str, torch.Tensor]:
    "The stored parameters under recbench's names; window lengths are settings here, no parameters."
    state = {
        rename(re.sub(r"^m\._?", "", name), set()): tensor(value) for name, value in stored.items()
    }
    return {
        name: value
        for name, value in state.items()
        if name not in ("windows_len", "cumsum_windows_len")
    }


def make_encoders(name: str, stored: dict, query_dim: int, sequence_dim: int) -> list[SequenceEncoder]:
    """Encoders that the parameters of a case fit.

    The first positions it keeps stand in its name, its number of heads nowhere.
    """
    state, limit = stored["state_dict"], re.search(r"max(?:_seq_length)?_?(\d+)", name)
    settings = {"sequence_dim": sequence_dim, "input": "h"} | (
        {"max_seq_length": int(limit[1])} if limit else {}
    )
    units = [
        tensor(value).shape[0]
        for key, value in state.items()
        if re.search(r"perceptron\.0\.weight$", key)
    ]
    if "m._multihead_attn.in_proj_weight" in state:
        width = tensor(state["m._query.bias"]).shape[0]
        return [
            SelfAttentionEncoder(multihead_attn_dim=width, num_heads=heads, **settings)
            for heads in range(1, width + 1)
            if width % heads == 0
        ]
    if "m.windows_len" in state:
        return [
            MultiWindowDINEncoder(
                query_dim=query_dim,
                windows_len=tensor(state["m.windows_len"]).tolist(),
                attn_mlp={"hidden_units": units},
                **settings,
            )
        ]
    if units: return [DINEncoder(query_dim=query_dim, attn_mlp={"hidden_units": units}, **settings)]
    if name.startswith("simple_attention"): return [SimpleAttention(query_dim=query_dim, **settings)]
    if pooling := re.match(r"pooling_(sum|mean)", name):
        return [PoolingEncoder(pooling_type=pooling[1], **settings)]
    raise Unsupported("an encoder that is not known")


def padding_share(
    encoder: SequenceEncoder, sequence: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor | float:
    """What TorchEasyRec takes from the padding and recbench does not.

    In pooling its sum, in attention its mean where a row is empty.

    Its own embedding groups pad with zeros, which adds nothing; some of the stored inputs pad with
    numbers.
    """
    sequence = sequence[:, :encoder.max_seq_length or None]
    lengths = lengths.clamp(max=sequence.shape[1])
    if isinstance(encoder, PoolingEncoder):
        rest = (sequence * (torch.arange(sequence.shape[1]) >= lengths[:, None])[..., None]).sum(1)
        return rest / (lengths.clamp(min=1)[:, None] if encoder.pooling_type == "mean" else 1)
    if isinstance(encoder, DINEncoder | SimpleAttention):
        return sequence.mean(1) * (lengths == 0)[:, None]
    return 0.0


def check_encoder(name: str, stored: dict, lengths: torch.Tensor) -> bool:
    """Outputs and gradients of one case.

    True where stored gradients are NaN, for which finite ones must stand here.
    """
    query, sequence = (tensor(value).requires_grad_() for value in stored["inputs"][:2])
    encoders, expected = make_encoders(name, stored, query.shape[1], sequence.shape[2]), tensor(
        stored["outputs"][0]
    )
    for encoder in encoders: encoder.load_state_dict(encoder_state(stored["state_dict"]))

    def output(encoder: SequenceEncoder) -> torch.Tensor:
        own = encoder({"h.query": query, "h.sequence": sequence, "h.sequence_length": lengths})
        assert (
            isinstance(encoder, MultiWindowDINEncoder) or not own[lengths == 0].any()
        ), "an empty row is not 0"
        return own + padding_share(encoder, sequence, lengths)

    encoder = min(encoders, key=lambda encoder: (output(encoder) - expected).abs().max().item())
    out = output(encoder)
    same(out, expected, "output")
    (out.flatten() * torch.arange(1, out.numel() + 1) / out.numel()).sum().backward()
    gradients = encoder_state(stored["grad_params"])
    pairs = [
        ("query", query.grad, stored["grad_inputs"][0]),
        ("sequence", sequence.grad, stored["grad_inputs"][1]),
    ]
    pairs += [(key, value.grad, gradients[key]) for key, value in encoder.named_parameters()]
    return any(
        [
            check_gradient(what, gradient, tensor(expected))
            for what, gradient, expected in pairs
            if expected is not None
        ]
    )


def check_gradient(what: str, gradient: torch.Tensor, expected: torch.Tensor) -> bool:
    "Compare where the stored gradient is a number; True if it is NaN anywhere."
    assert gradient.isfinite().all(), f"gradient of {what} is not finite"
    same(
        gradient.masked_fill(expected.isnan(), 0),
        expected.nan_to_num(0),
        f"gradient of {what}",
        SUM_ATOL,
    )
    return bool(expected.isnan().any())


def check_errors(stored: dict, report: Report) -> None:
    "What raises there raises here, as ValueError; what is accepted there is accepted here."
    mlp, ones = {"hidden_units": [4]}, {
        "h.query": torch.ones(1, 4),
        "h.sequence": torch.ones(1, 5, 4),
        "h.sequence_length": torch.tensor([5]),
    }
    calls = {
        "din_query_wider": lambda: DINEncoder(4, 5, "h", mlp),
        "pool_max": lambda: PoolingEncoder(4, "h", "max"),
        "mwd_seq_longer_than_windows": lambda: MultiWindowDINEncoder(4, 4, "h", [1, 1], mlp)(ones),
    }
    for name, outcome in stored.items():
        with report.case(f"errors/{name}"):
            if name not in calls: raise Unsupported("not known")
            try:calls[name]()
            except ValueError:assert "error" in outcome, "refused here only"
            else: assert "value" in outcome, "refused there only"


def check_seq_encoders(content: dict, report: Report) -> None:
    cases, lengths = dict(content["cases"]), tensor(content["lengths"])
    check_errors(cases.pop("errors", {}), report)
    for name, stored in cases.items():
        undefined = False
        with report.case(name): undefined = check_encoder(name, stored, lengths)
        if undefined:
            with report.case(f"{name}/gradients"): raise Unsupported("NaN there, finite here")


CHECKERS = {"seq_encoders*": check_seq_encoders}
