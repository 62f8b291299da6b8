"Reference checks of whole models."
import re

import torch
from reference_common import SUM_ATOL, Report, Unsupported, same, same_similarity, tensor
from reference_matching import repeats
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recbench.core.config import Loss, ModelConfig, SoftmaxCrossEntropyConfig
from recbench.data.rows.batch import BASE, NEG, Batch
from recbench.data.rows.features import Feature, IdFeature, RawFeature, SequenceFeature
from recbench.interop import convert_tzrec_state_dict, read_tzrec_config
from recbench.layers import CapsuleLayer, VariationalDropout
from recbench.models import create_model


def model_field(text: str) -> str:
    "The field of the config that names the model; '' for one that recbench does not have."
    text = re.sub(r'"[^"]*"|#.*', "", text)
    if wrapper := re.search(r"\bmodel_config\s*:?\s*\{", text): text = text[wrapper.end():]
    while text != (text := re.sub(r"\{[^{}]*\}", "", text)): pass
    known = next(names for mark, names in ModelConfig.choices().items() if mark.choice == "model")
    return next((name for name in known if re.search(rf"\b{name}\b", text)), "")


def table_shapes(state: dict) -> dict[str, list[int]]:
    "Table name to [rows, width]."
    found = {name: re.search(r"\.(?:embedding_bags|embeddings)\.(.+)\.weight$", name) for name in state}
    return {match[1]: state[name]["shape"] for name, match in found.items() if match}


def find_table(name: str, shapes: dict[str, list[int]]) -> tuple[str, list[int]] | None:
    """Embedding name of a feature and [rows, width].

    `clicks__item` may read the table of `item`, and a wide table has a width of its own.
    """
    for base in dict.fromkeys((name, name.rpartition("__")[2])):
        found = [table for table in shapes if f"{table}_".startswith(f"{base}_emb_")]
        if found:
            return (
                f"{base}_emb",
                shapes[min(found, key=lambda table: "_wide" in table.removeprefix(f"{base}_emb"))],
            )
    return None


def sequence_names(config: ModelConfig, sparse: dict[str, list[list[int]]]) -> set[str]:
    """Features that are read position by position.

    In a sequence group `<sequence>__<feature>`, else those without exactly one id a row, else all.
    """
    groups = [group.feature_names for group in config.feature_groups if "SEQUENCE" in group.group_type]
    groups += [part.feature_names for group in config.feature_groups for part in group.sequence_groups]
    return {
        name
        for names in groups
        for name in [n for n in names if "__" in n]
        or [n for n in names if any(len(row) != 1 for row in sparse.get(n, []))]
        or names
    }


def make_features(content: dict, config: ModelConfig) -> list[Feature]:
    """A feature for every input of the file, in groups or not (a session id), with the tables that the
    file has.
    """
    shapes = table_shapes(content["state_dict"])
    parts = [
        content.get(part) or {} for part in ("base_sparse", "neg_sparse", "base_dense", "neg_dense")
    ]
    sparse, dense = parts[0] | parts[1], parts[2] | parts[3]
    if any(isinstance(row_id, list) for rows in sparse.values() for row in rows for row_id in row):
        raise Unsupported("a sequence with several ids a position")
    tower, in_sequence = getattr(config.model, "item_tower", None), sequence_names(config, sparse)
    items = {
        name
        for group in config.feature_groups
        if tower and group.group_name == tower.input
        for names in (group.feature_names, *(part.feature_names for part in group.sequence_groups))
        for name in names
    }

    def make(name: str) -> Feature:
        side = "item" if name in items else "user"
        if name in dense: return RawFeature(name=name, side=side, value_dim=len(dense[name][0]))
        table, (rows, width) = find_table(name, shapes) or (
            None,
            (1 + max([0, *sum(sparse[name], [])]), 4),
        )
        settings = {
            "name": name,
            "side": side,
            "num_buckets": rows,
            "embedding_dim": width,
            "embedding_name": table,
        }
        if name in in_sequence:
            return SequenceFeature(
                **settings, pooling="sum", max_length=max(1, *map(len, sparse[name]))
            )
        return IdFeature(**settings, value_dim=0)

    return [make(name) for name in (*sparse, *dense)]


def make_batch(content: dict) -> Batch:
    batch = Batch()
    for part, group in (("base", BASE), ("neg", NEG)):
        if sparse := content.get(f"{part}_sparse"):
            bags = [bag for rows in sparse.values() for bag in rows]
            batch.sparse_features[group] = KeyedJaggedTensor.from_lengths_sync(
                list(sparse),
                torch.tensor(sum(bags, []), dtype=torch.int64),
                torch.tensor([len(bag) for bag in bags]),
            )
        if dense := content.get(f"{part}_dense"):
            columns = [torch.tensor(rows, dtype=torch.float32) for rows in dense.values()]
            batch.dense_features[group] = KeyedTensor(
                list(dense), [column.shape[1] for column in columns], torch.cat(columns, 1)
            )
    for part in ("labels", "sample_weights", "additional_infos"):
        getattr(batch, part).update(
            {name: tensor(values) for name, values in (content.get(part) or {}).items()}
        )
    return batch


def unsmoothed(config: ModelConfig) -> ModelConfig:
    "The losses without label smoothing, which TorchEasyRec's match models ignore."
    return config.model_copy(
        update={
            "losses": [Loss(softmax_cross_entropy=SoftmaxCrossEntropyConfig()) for _ in config.losses]
        }
    )


def is_random(model: nn.Module) -> bool:
    "Does a forward pass in training draw numbers?"
    return any(
        isinstance(part, VariationalDropout)
        or isinstance(part, nn.Dropout)
        and part.p > 0
        or isinstance(part, nn.MultiheadAttention)
        and part.dropout > 0
        for part in model.modules()
    )


def routes_at_random(model: nn.Module) -> bool:
    "Do capsules start from random numbers? TorchEasyRec draws them in evaluation too."
    return any(
        isinstance(part, CapsuleLayer) and part.stddev > 0 and part.max_k > 1
        for part in model.modules()
    )


def check_model(content: dict, report: Report) -> None:
    if not model_field(content["config_text"]): raise Unsupported("this model is not there yet")
    config = read_tzrec_config(content["config_text"]).model_config
    if hasattr(config.model, "item_tower") and any(
        loss.softmax_cross_entropy.label_smoothing for loss in config.losses
    ):
        with report.case("label_smoothing"):
            raise Unsupported("ignored there; compared below without smoothing")
        config = unsmoothed(config)
    batch = make_batch(content)
    if repeats(batch.additional_infos.get("hard_neg_indices")):
        raise Unsupported("a duplicated hard negative is an error")
    model = create_model(
        config,
        make_features(content, config),
        list(content["labels"]),
        sample_weights=list(content.get("sample_weights") or {}),
    )
    model.load_state_dict(
        convert_tzrec_state_dict(
            model, {name: tensor(value) for name, value in content["state_dict"].items()}
        ),
        strict=True,
    )
    model.init_loss()
    for mode, expected in content["outputs"].items():
        with report.case(mode):
            random = routes_at_random(model)
            check_outputs(
                model.train(mode == "train"),
                batch,
                expected,
                random=random or mode == "train" and is_random(model),
            )
            if random: raise Unsupported("interests start from random numbers there, in evaluation too")


def check_outputs(model, batch: Batch, expected: dict, random: bool) -> None:
    "Losses, total and predictions; of a random forward pass only the penalties."
    predictions = model.predict(batch)
    losses = model.loss(predictions, batch)
    assert set(losses) == set(
        expected["losses"]
    ), f"losses are {sorted(losses)}, expected {sorted(expected['losses'])}"
    for name, value in expected["losses"].items():
        if not random or name.endswith("_feature_p_loss"): same(losses[name], value, name, SUM_ATOL)
    if random: return
    same(sum(losses.values()), expected["total_loss"], "total loss", SUM_ATOL)
    for name, value in expected["predictions"].items():
        compare = same_similarity if name == "similarity" else same
        compare(predictions[name], value, name)


CHECKERS = {"model_*": check_model}
