"Reference checks of `recbench.layers.hstu`."
import torch
from reference_common import Report, same, tensor

from recbench.core.config import STU
from recbench.layers import STULayer, hstu_attention, hstu_mask


def options(stored: dict) -> dict:
    "Keywords of a case as ours are called."
    names = {
        "causal": "causal",
        "num_targets": "num_targets",
        "max_attn_len": "max_attn_len",
        "contextual_seq_len": "contextual_seq_len",
        "scaling_seqlen": "divisor",
    }
    return {
        names[key]: tensor(value) if isinstance(value, dict) else value for key, value in stored.items()
    }


def check_layer(content: dict, stored: dict) -> None:
    state = {name: tensor(value) for name, value in stored["state_dict"].items()}
    x, offsets = tensor(stored["x"]), tensor(stored["x_offsets"])
    heads, output = tensor(content["q"]).shape[1], state["_output_weight"]
    hidden = output.shape[0] // (3 * heads)
    attention = state["_uvqk_weight"].shape[1] // (2 * heads) - hidden
    layer = STULayer(
        STU(
            embedding_dim=x.shape[1],
            num_heads=heads,
            hidden_dim=hidden,
            attention_dim=attention,
            use_group_norm=stored["use_group_norm"],
            scaling_seqlen=stored["max_seq_len"],
        )
    ).eval()  # there the longest row of the batch
    layer.load_state_dict(
        {
            "input_norm.weight": state["_input_norm_weight"],
            "input_norm.bias": state["_input_norm_bias"],
            "uvqk.weight": state["_uvqk_weight"].T,
            "uvqk.bias": state["_uvqk_beta"],
            "output_norm.weight": state["_output_norm_weight"],
            "output_norm.bias": state["_output_norm_bias"],
            "output.weight": output.T,
        }
    )
    same(
        layer(x, offsets.diff(), stored["max_seq_len"], num_targets=tensor(stored["num_targets"])),
        stored["output"],
        "output",
    )


def check_hstu_attention(content: dict, report: Report) -> None:
    q, k, v, lengths, width = (
        *(tensor(content[name]) for name in "qkv"),
        tensor(content["offsets"]).diff(),
        content["max_seq_len"],
    )
    for stored in content.get("cases", []):
        with report.case(stored["name"]):
            given = options(stored["kwargs"])
            masks = {name: value for name, value in given.items() if name != "divisor"}
            found, expected = hstu_mask(lengths, width, **masks), tensor(stored["mask"])
            same(
                (found & torch.ones_like(expected)).int(),
                (expected & torch.ones_like(found)).int(),
                "mask",
            )
            same(
                hstu_attention(q, k, v, lengths, width, content["alpha"], **given),
                stored["output"],
                "output",
            )
    for stored in content.get("stu_layer", []):
        with report.case(f"stu_layer_group_norm={stored['use_group_norm']}"):
            check_layer(content, stored)


CHECKERS = {"hstu_attention*": check_hstu_attention}
