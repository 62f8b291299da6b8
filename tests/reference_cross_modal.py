"Reference checks of `recbench.layers.CrossModal`."
import re

import torch
from reference_common import Report, tensor
from torch import Tensor
from torch.testing import assert_close

from recbench.core.cross_modal_config import CrossModalConfig
from recbench.layers import CrossModal

NAMES = {
    r"img_projection/": "image_tokens.projection.",
    r"img_map_matrix": "image_tokens.numbers",
    r"txt_projection/": "text_tokens.projection.",
    r"txt_seq_projection_(\d+)/": r"text_tokens.inputs.\1.projection.",
    r"position_embedding/position_embeddings_(\d+)": r"text_tokens.inputs.\1.positions",
    r"^LayerNorm/": "text_tokens.norm.",
    r"image_self_attention_layer_(\d+)/": r"image_tokens.layers.\1.",
    r"text_self_attention_layer_(\d+)/": r"text_tokens.layers.\1.",
    r"left_to_right_cross_layer_(\d+)/": r"image_cross.\1.",
    r"right_to_left_cross_layer_(\d+)/": r"text_cross.\1.",
    r"attention/cross/": "cross.",
    r"attention/self/": "attention.",
    r"attention/output/dense/": "output.",
    r"attention/output/LayerNorm/": "norm.",
    r"intermediate/dense/": "feed_forward.inner.",
    r"output/dense/": "feed_forward.outer.",
    r"output/LayerNorm/": "feed_forward.norm.",
    r"/?(kernel|gamma)$": "weight",
    r"/?(bias|beta)$": "bias",
    r"(query|key|value)(weight|bias)$": r"\1.\2",
}


def here(name: str) -> str:
    "A tensor's name in recbench."
    for pattern, ours in NAMES.items(): name = re.sub(pattern, ours, name)
    return name


def weight(name: str, stored: list) -> Tensor:
    "A tensor as recbench has it; TensorFlow stores kernels [in, out], one table as [1, rows, width]."
    value = tensor(stored).double()
    return value.T if name.endswith("kernel") else value[0] if name == "img_map_matrix" else value


def settings(config: str) -> CrossModalConfig:
    "EasyRec's towers have `multi_head_num` heads each; their own number only widens them there."
    own = {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", config)}
    heads = own["multi_head_num"]
    for side in ("text", "image"):
        width = own[f"{side}_head_size"] * own[f"{side}_multi_head_num"]
        own |= {f"{side}_head_size": width // heads, f"{side}_multi_head_num": heads}
    return CrossModalConfig(**own)


def padded(text: list) -> tuple[Tensor, Tensor]:
    "Positions [B, T, dim] and lengths of a text."
    positions, lengths = text
    return torch.tensor(positions, dtype=torch.float64), torch.tensor(lengths)


def check_case(case: dict) -> None:
    inputs, config, dim = case["inputs"], settings(case["config"]), 8
    image = torch.tensor(inputs["image"]).double().unsqueeze(1) if "image" in inputs else None
    tabular = torch.tensor(inputs["general"]).double().unflatten(1, (-1, dim))
    texts = [padded(text) for text in inputs.get("text", [])]
    sizes = (image.shape[2], 1) if image is not None else (0, 0)
    layer = CrossModal(config, *sizes, dim, tabular.shape[1], [dim] * len(texts), [8] * len(texts))
    state = {here(name): weight(name, stored) for name, stored in case["weights"].items()}
    layer.double().eval().load_state_dict(state, strict=True)
    output, expected = layer(image, texts, tabular), torch.tensor(case["output"], dtype=torch.float64)
    assert_close(output.detach(), expected, rtol=1e-6, atol=1e-6)


def check_cmbf(content: dict, report: Report) -> None:
    for case in content["cases"]:
        with report.case(case["name"]): check_case(case)


CHECKERS = {"cmbf": check_cmbf}
