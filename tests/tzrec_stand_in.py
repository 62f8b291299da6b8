"""Small models computed from tensors under TorchEasyRec's names with nothing but torch, written as the
files that `reference.py` reads.

For models and losses without stored numbers: the names and formulas are TorchEasyRec's, the tensors are
random.
"""

import torch
import torch.nn.functional as F

SPARSE = {
    "a": [[1], [2, 3], [], [6], [2]],
    "b": [[0], [5], [4, 4], [], [8]],
    "session": [[3], [3, 4], [5], [], [3]],
}  # `session` is in no group
DENSE = {
    "x": [[0.5], [-1.0], [2.0], [0.0], [0.7]],
    "y": [[0.1, 0.2], [0.0, -0.3], [1.0, 1.0], [-2.0, 0.4], [0.3, -0.9]],
}
SEQUENCES = {
    "c": [[1], [2], [0], [6], [3]],
    "s__c": [[1, 2, 3], [], [6], [0, 5], [4]],
    "s__b": [[3, 2, 1], [], [4], [6, 6], [8]],
}
ROWS = {"a": 7, "b": 9, "c": 8, "s__c": 8, "s__b": 9}
BAGS, ROWWISE = (
    "embedding_group.emb_impls.__BASE__.ebc.embedding_bags",
    "embedding_group.seq_emb_impls.__BASE__.ec_dict.4.embeddings",
)


class Tensors(dict):
    "A state dict that draws a tensor when it is first asked for."
    def draw(self, name: str, *shape: int) -> torch.Tensor:
        return self.setdefault(name, torch.randn(shape) / 2)

    def linear(self, name: str, x: torch.Tensor, width: int, bias: bool = True) -> torch.Tensor:
        return F.linear(
            x,
            self.draw(f"{name}.weight", width, x.shape[-1]),
            self.draw(f"{name}.bias", width) if bias else None,
        )

    def mlp(self, name: str, x: torch.Tensor, *units: int) -> torch.Tensor:
        for i, width in enumerate(units):
            x = self.linear(f"{name}.mlp.{i}.perceptron.0", x, width).relu()
        return x

    def bag(self, feature: str, ending: str = "_emb", width: int = 4) -> torch.Tensor:
        table = self.draw(f"{BAGS}.{feature}{ending}.weight", ROWS[feature], width)
        return torch.stack([table[ids].sum(0) for ids in (SPARSE | SEQUENCES)[feature]])

    def rowwise(self, feature: str) -> list[torch.Tensor]:
        table = self.draw(f"{ROWWISE}.{feature}_emb.weight", ROWS[feature], 4)
        return [table[ids] for ids in SEQUENCES[feature]]


def numbers() -> torch.Tensor: return torch.cat([torch.tensor(DENSE["x"]), torch.tensor(DENSE["y"])], 1)


def everything(t: Tensors) -> torch.Tensor: return torch.cat([t.bag("a"), t.bag("b"), numbers()], 1)


def dcn_v2(t: Tensors, classes: int) -> torch.Tensor:
    x = everything(t)
    first = crossed = t.mlp("backbone", x, 6)
    for i in range(2):
        crossed = (
            first
            * t.linear(
                f"cross.v_kernels.{i}", t.linear(f"cross.u_kernels.{i}", crossed, 3, bias=False), 6
            )
            + crossed
        )
    return t.linear(
        "output_mlp",
        t.mlp("final", torch.cat([crossed, t.mlp("deep", x, 5)], 1), 4),
        classes,
        bias=False,
    )


def xdeepfm(t: Tensors, classes: int) -> torch.Tensor:
    x_0 = hidden = torch.stack([t.bag("a", "_emb_wide", 8), t.bag("b", "_emb_wide", 8)], 1)
    pooled = []
    for i, size in enumerate((3, 2)):
        products = torch.einsum("bhd,bfd->bhfd", hidden, x_0).flatten(1, 2)
        hidden = F.conv1d(
            products,
            t.draw(f"cin.cin_layers.{i}.weight", size, products.shape[1], 1),
            t.draw(f"cin.cin_layers.{i}.bias", size),
        )
        pooled.append(hidden.sum(2))
    return t.linear(
        "output_mlp",
        t.mlp("final", torch.cat([*pooled, t.mlp("deep", everything(t), 5)], 1), 4),
        classes,
    )


def wukong(t: Tensors, classes: int) -> torch.Tensor:
    x = torch.stack([t.mlp("dense_mlp", numbers(), 5, 4), t.bag("a"), t.bag("b")], 1)
    for i in range(2):
        layer, fields = f"_wukong_layers.{i}", x.shape[1]
        compress = lambda name, width: (
            x.transpose(1, 2) @ t.draw(f"{name}.weight", fields, width)
        ).transpose(1, 2)
        norm = lambda name, y: F.layer_norm(
            y, y.shape[-1:], t.draw(f"{name}.weight", y.shape[-1]), t.draw(f"{name}.bias", y.shape[-1])
        )
        products = (x @ compress(f"{layer}.fmb", 2).transpose(1, 2)).flatten(1)
        made = t.linear(
            f"{layer}.fmb.feature_out_liner",
            t.mlp(f"{layer}.fmb.mlp", norm(f"{layer}.fmb.norm", products), 5),
            2 * 4,
        ).unflatten(1, (2, 4))
        residual = x if fields == 4 else compress(f"{layer}.residual_projection", 4)
        x = norm(f"{layer}.norm", torch.cat([made, compress(f"{layer}.lcb", 2)], 1) + residual)
    return t.linear("output_mlp", t.mlp("final_mlp", x.flatten(1), 3), classes)


def attention(
    t: Tensors, name: str, query: torch.Tensor, sequences: list[torch.Tensor]
) -> torch.Tensor:
    "DIN, a row at a time; an empty row gives 0."
    def row(q, s):
        q = F.pad(q, (0, s.shape[1] - len(q))).expand_as(s)
        return (
            t.linear(f"{name}.linear", t.mlp(f"{name}.mlp", torch.cat([q, s, q - s, q * s], 1), 5), 1)
            .softmax(0)
            .T
            @ s
        )
    return torch.cat([row(q, s) for q, s in zip(query, sequences)])


def multi_tower(t: Tensors, classes: int) -> torch.Tensor:
    "Two encoders on one sequence group inside a DEEP group, whose query reads a table of its own."
    encoders, query = "embedding_group._group_name_to_seq_encoders.deep", torch.cat(t.rowwise("c"))
    sequences = [torch.cat(pair, 1) for pair in zip(t.rowwise("s__c"), t.rowwise("s__b"))]
    means = torch.stack([s.sum(0) / max(len(s), 1) for s in sequences])
    deep = torch.cat(
        [t.bag("a"), t.bag("c"), attention(t, f"{encoders}.0", query, sequences), means], 1
    )
    towers = [t.mlp("towers.deep", deep, 6), t.mlp("towers.numbers", numbers(), 3)]
    return t.linear("output_mlp", t.mlp("final_mlp", torch.cat(towers, 1), 4), classes)


ALL = 'feature_groups { group_name: "all" feature_names: ["a", "b", "x", "y"] group_type: DEEP }'
DEEP, WIDE = (
    ALL.replace('"all"', '"deep"'),
    'feature_groups { group_name: "wide" feature_names: ["a", "b"] group_type: WIDE }',
)
NUMBERS = 'feature_groups { group_name: "dense" feature_names: ["x", "y"] group_type: DEEP }'
LAYER = ("wukong_layers { lcb_feature_num: 2 fmb_feature_num: 2 compressed_feature_num: 2 "
         "feature_num_mlp { hidden_units: 5 } }")
CONFIGS = {
    dcn_v2: ALL
    + (
        "dcn_v2 { backbone { hidden_units: 6 } cross { cross_num: 2 low_rank: 3 } "
        "deep { hidden_units: 5 } final { hidden_units: 4 } }"
    ),
    xdeepfm: WIDE
    + DEEP
    + (
        "xdeepfm { cin { cin_layer_size: [3, 2] } deep { hidden_units: 5 } final { hidden_units: 4 } "
        "wide_embedding_dim: 8 }"
    ),
    wukong: NUMBERS
    + WIDE.replace("wide", "sparse").replace("WIDE", "DEEP")
    + f"wukong {{ dense_mlp {{ hidden_units: [5, 4] }} {LAYER} {LAYER} final {{ hidden_units: 3 }} }}",
    multi_tower: """feature_groups { group_name: "deep" feature_names: ["a", "c"] group_type: DEEP
        sequence_groups { group_name: "clicks" feature_names: ["c", "s__c", "s__b"] }
        sequence_encoders { din_encoder { input: "clicks" attn_mlp { hidden_units: 5 } } }
        sequence_encoders { pooling_encoder { input: "clicks" } } }"""
    + NUMBERS.replace('"dense"', '"numbers"')
    + """multi_tower { towers { input: "deep" mlp { hidden_units: 6 } }
        towers { input: "numbers" mlp { hidden_units: 3 } }
        final { hidden_units: 4 } }""",
}


def jrc(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Half cross entropy, half ranking inside sessions, which are the first ids of `session`, 0 where
    there is none.
    """
    sessions, ranking = [ids[0] if ids else 0 for ids in SPARSE["session"]], []
    for i, label in enumerate(labels.tolist()):
        rivals = [
            j
            for j, other in enumerate(labels.tolist())
            if other != label and sessions[j] == sessions[i]
        ]
        ranking.append(logits[[i, *rivals], label].logsumexp(0) - logits[i, label])
    return 0.5 * F.cross_entropy(logits, labels, reduction="none") + 0.5 * torch.stack(ranking)


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    p = logits.sigmoid()
    return (
        0.3 * labels * (1 - p) ** 1.5 + 0.7 * (1 - labels) * p**1.5
    ) * F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")


LOSSES = {  # text, function of logits and labels to [B], number of classes
    "binary_cross_entropy": (
        "label_smoothing: 0.2",
        lambda y, labels: F.binary_cross_entropy_with_logits(y, 0.8 * labels + 0.1, reduction="none"),
        1,
    ),
    "binary_focal_loss": ("gamma: 1.5 alpha: 0.3", focal, 1),
    "l2_loss": ("", lambda y, labels: (y - labels) ** 2, 1),
    "softmax_cross_entropy": (
        "label_smoothing: 0.1",
        lambda y, labels: F.cross_entropy(y, labels, reduction="none", label_smoothing=0.1),
        3,
    ),
    "jrc_loss": ('session_name: "session"', jrc, 2),
}


def reference(model, loss: str, labels: list[int], weights: list[float] | None = None) -> dict:
    "The content of a file: inputs, tensors, and the outputs that they give."
    text, compute, classes = LOSSES[loss]
    t = Tensors()
    y = model(t, classes)
    y = y[:, 0] if classes == 1 else y
    w = (
        torch.ones(len(labels))
        if weights is None
        else torch.tensor(weights) / torch.tensor(weights).mean()
    )
    value = (compute(y, torch.tensor(labels)) * w).mean()
    predictions = (
        {"y": y}
        if loss == "l2_loss"
        else {"logits": y, "probs": y.sigmoid() if classes == 1 else y.softmax(1)}
    )
    if classes == 2: predictions["probs1"] = predictions["probs"][:, 1]
    stored = lambda tensors: {
        name: {"dtype": "float32", "shape": list(tensor.shape), "data": tensor.tolist()}
        for name, tensor in tensors.items()
    }
    output = stored({"total_loss": value}) | {
        "losses": stored({loss: value}),
        "predictions": stored(predictions),
    }
    return {
        "config_text": f"{CONFIGS[model]} num_class: {classes} losses {{ {loss} {{ {text} }} }}",
        "base_sparse": SPARSE | SEQUENCES,
        "base_dense": DENSE,
        "labels": {"label": labels},
        "sample_weights": None if weights is None else {"weight": weights},
        "state_dict": stored(t),
        "outputs": {"train": output, "eval": output},
    }


# Match models: users are rows of data group BASE, items of NEG, three of them shared negatives.
ITEMS = {"b": [[0], [5], [4, 4], [], [8], [1], [2], [7]]}
ITEM_NUMBERS = {
    "y": [
        [0.1, 0.2],
        [0.0, -0.3],
        [1.0, 1.0],
        [-2.0, 0.4],
        [0.3, -0.9],
        [0.5, 0.5],
        [0.0, 0.0],
        [-1.0, 0.2],
    ]
}
USERS, USER_NUMBERS = {name: (SPARSE | SEQUENCES)[name] for name in ("a", "c", "s__c", "s__b")}, {
    "x": DENSE["x"]
}


def pooled(t: Tensors, place: str, feature: str, ids: list[list[int]]) -> torch.Tensor:
    table = t.draw(f"{place}.ebc.embedding_bags.{feature}_emb.weight", ROWS[feature], 4)
    return torch.stack([table[row].sum(0) for row in ids])


def tower(t: Tensors, name: str, x: torch.Tensor, cosine: bool) -> torch.Tensor:
    x = t.linear(f"{name}.output", t.mlp(f"{name}.mlp", x, 6), 4)
    return F.normalize(x, dim=1) if cosine else x


def sides(t: Tensors, own_tables: bool) -> tuple[torch.Tensor, torch.Tensor]:
    "Input of both towers, with a group of tables for each or one for both."
    user, item = (
        f"{side}_tower.embedding_group" if own_tables else "embedding_group"
        for side in ("user", "item")
    )
    return (
        torch.cat(
            [pooled(t, f"{user}.emb_impls.__BASE__", "a", SPARSE["a"]), torch.tensor(DENSE["x"])], 1
        ),
        torch.cat(
            [pooled(t, f"{item}.emb_impls.__NEG__", "b", ITEMS["b"]), torch.tensor(ITEM_NUMBERS["y"])],
            1,
        ),
    )


def dssm_v2(t: Tensors, train: bool, weights) -> tuple[torch.Tensor, torch.Tensor, dict, dict]:
    user, item = sides(t, own_tables=False)
    return tower(t, "user_tower", user, False), tower(t, "item_tower", item, False), {}, {}


def dat(t: Tensors, train: bool, weights) -> tuple[torch.Tensor, torch.Tensor, dict, dict]:
    user, item = sides(t, own_tables=True)
    a_u, a_i = pooled(t, "user_tower.embedding_group.emb_impls.__BASE__", "c", SEQUENCES["c"]), pooled(
        t, "item_tower.embedding_group.emb_impls.__NEG__", "b", ITEMS["b"]
    )
    u, v = tower(t, "user_tower", torch.cat([user, a_u], 1), True), tower(
        t, "item_tower", torch.cat([item, a_i], 1), True
    )
    if not train: return u, v, {}, {}
    distances = {
        "amm_loss_u": 0.3 * (F.normalize(a_u) - v[:5]).square().sum(1),
        "amm_loss_i": 0.2 * (F.normalize(a_i[:5]) - u).square().sum(1),
    }
    losses = {
        name: d.sum() if weights is None else (d * weights).sum() / weights.sum()
        for name, d in distances.items()
    }
    return (
        u,
        v,
        losses,
        {"user_augment": a_u, "item_augment": a_i, "user_tower_emb": u, "item_tower_emb": v},
    )


def mind(t: Tensors, train: bool, weights) -> tuple[torch.Tensor, torch.Tensor, dict, dict]:
    "A user and an interest at a time; routing from zeros, two interests at most."
    user, item = sides(t, own_tables=True)
    name, v, users = "user_tower", tower(t, "item_tower", item, True), []
    x = t.linear(f"{name}.user_mlp_out", t.mlp(f"{name}.user_mlp", user, 6), 5)
    tables = {
        feature: t.draw(
            f"{name}.embedding_group.seq_emb_impls.__BASE__.ec_dict.4.embeddings.{feature}_emb.weight",
            ROWS[feature],
            4,
        )
        for feature in ("s__c", "s__b")
    }
    for row, ids in enumerate(zip(SEQUENCES["s__c"], SEQUENCES["s__b"])):
        history = torch.cat([tables["s__c"][ids[0]], tables["s__b"][ids[1]]], 1)
        low = t.linear(
            f"{name}._hist_seq_mlp_out", t.mlp(f"{name}._hist_seq_mlp", history, 6), 5, bias=False
        ) @ t.draw(f"{name}._capsule_layer.bilinear_matrix", 5, 3)
        count = 2 if len(low) > 2 else 1
        shares = torch.full((len(low), count), 1 / count)
        for _ in range(2):
            shares = (20 * (shares + F.normalize(low, dim=1) @ (shares.T @ low).T)).softmax(1)
        high = shares.T @ low
        length = high.norm(dim=1, keepdim=True).clamp(min=1e-7)
        high = high / length * (length**2 / (1 + length**2)) ** 0.2
        joined = torch.cat([x[row].expand(count, -1), high], 1)
        interests = F.normalize(
            t.linear(f"{name}.output", t.mlp(f"{name}._concat_mlp", joined, 6), 4, bias=False), dim=1
        )
        users.append((20 * interests @ v[row]).softmax(0) @ interests)
    return torch.stack(users), v, {}, {}


GROUPS = ('feature_groups { group_name: "user" feature_names: ["a", "x"] group_type: DEEP } '
          'feature_groups { group_name: "item" feature_names: ["b", "y"] group_type: DEEP }')
AUGMENT = (
    'feature_groups { group_name: "u_aug" feature_names: "c" group_type: DEEP } feature_groups { '
    'group_name: "i_aug" feature_names: "b" group_type: DEEP }'
)
HISTORY = 'feature_groups { group_name: "hist" feature_names: ["s__c", "s__b"] group_type: SEQUENCE }'
TOWER = '{ input: "%s" mlp { hidden_units: 6 } %s }'
CAPSULES = ('capsule_config { max_k: 2 max_seq_len: 6 high_dim: 3 squash_pow: 0.2 routing_init_method: '
            '"zeros" }')
MATCH_CONFIGS = {
    dssm_v2: GROUPS
    + f"dssm_v2 {{ user_tower {TOWER % ('user', '')} item_tower {TOWER % ('item', '')} "
    "output_dim: 4 temperature: 0.5 }",
    dat: GROUPS
    + AUGMENT
    + f"""dat {{ user_tower {TOWER % ('user', 'augment_input: "u_aug"')}
        item_tower {TOWER % ('item', 'augment_input: "i_aug"')}
        output_dim: 4 similarity: COSINE temperature: 0.5 amm_u_weight: 0.3 amm_i_weight: 0.2 }}""",
    mind: GROUPS
    + HISTORY
    + f"""mind {{ user_tower {{ input: "user" history_input: "hist" user_mlp {{ hidden_units: [6, 5] }}
        hist_seq_mlp {{ hidden_units: [6, 5] }} user_seq_combine: SUM
        {CAPSULES} concat_mlp {{ hidden_units: 6 }} }}
        item_tower {TOWER % ('item', '')} output_dim: 4 simi_pow: 20 temperature: 0.5 }}""",
}


def match_reference(
    model, weights: list[float] | None = None, tensors: dict[str, torch.Tensor] | None = None
) -> dict:
    """The content of a file of a match model with three shared negatives.

    `tensors` are those that shall not be random.
    """
    t, w, outputs = Tensors(tensors or {}), None if weights is None else torch.tensor(weights), {}
    stored = lambda tensors: {
        name: {"dtype": "float32", "shape": list(tensor.shape), "data": tensor.tolist()}
        for name, tensor in tensors.items()
    }
    for mode in ("train", "eval"):
        u, v, losses, predictions = model(t, mode == "train", w)
        similarity = torch.cat([(u * v[:5]).sum(1, keepdim=True), u @ v[5:].T], 1) / 0.5
        shares = torch.full((5,), 0.2) if w is None else w / w.sum()
        losses = {"softmax_cross_entropy": -(similarity.log_softmax(1)[:, 0] * shares).sum()} | losses
        outputs[mode] = stored({"total_loss": sum(losses.values())}) | {
            "losses": stored(losses),
            "predictions": stored({"similarity": similarity} | predictions),
        }
    return {
        "config_text": MATCH_CONFIGS[model] + "losses { softmax_cross_entropy {} }",
        "base_sparse": USERS,
        "base_dense": USER_NUMBERS,
        "neg_sparse": ITEMS,
        "neg_dense": ITEM_NUMBERS,
        "labels": {"label": [1] * 5},
        "sample_weights": None if weights is None else {"weight": weights},
        "state_dict": stored(t),
        "outputs": outputs,
    }
