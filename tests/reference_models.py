"Reference checks of whole models."
import re

import torch
from reference_common import SUM_ATOL, Report, Unsupported, same, same_similarity, tensor
from reference_matching import repeats
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recbench.core.config import Loss, ModelConfig, SoftmaxCrossEntropy
from recbench.data.batch import BASE, NEG, Batch
from recbench.data.features import Feature, IdFeature, RawFeature, SequenceFeature
from recbench.interop import convert_tzrec_state_dict, read_tzrec_config
from recbench.models import create_model


def table_shapes(state: dict) -> dict[str, list[int]]:
    "Table name to [rows, width]."
    found = {name: re.search(r"\.(?:embedding_bags|embeddings)\.(.+)\.weight$", name) for name in state}
    return {match[1]: state[name]["shape"] for name, match in found.items() if match}


def make_features(content: dict, config: ModelConfig) -> list[Feature]:
    "Features of the config's groups as the file implies them; a group's sequence features are those its encoders read."
    shapes = table_shapes(content["state_dict"])
    parts = [content.get(part) or {} for part in ("base_sparse", "neg_sparse", "base_dense", "neg_dense")]
    sparse, dense = parts[0] | parts[1], parts[2] | parts[3]

    def make(name: str, side: str, in_sequence: bool) -> Feature:
        if name in dense: return RawFeature(name=name, side=side, value_dim=len(dense[name][0]))
        rows, width = next(shape for table, shape in shapes.items() if f"{table}_".startswith(f"{name}_emb_"))
        settings = {"name": name, "side": side, "num_buckets": rows, "embedding_dim": width}
        return SequenceFeature(**settings, max_length=max(1, *map(len, sparse[name]))) if in_sequence else IdFeature(**settings, value_dim=0)

    features = {}
    for group in config.feature_groups:
        side = "item" if group.group_name == config.model.item_tower.input else "user"
        features |= {name: make(name, side, False) for name in group.feature_names}
        features |= {name: make(name, side, True) for part in group.sequence_groups for name in part.feature_names}
    return list(features.values())


def make_batch(content: dict) -> Batch:
    batch = Batch()
    for part, group in (("base", BASE), ("neg", NEG)):
        if sparse := content.get(f"{part}_sparse"):
            bags = [bag for rows in sparse.values() for bag in rows]
            batch.sparse_features[group] = KeyedJaggedTensor.from_lengths_sync(list(sparse), torch.tensor(sum(bags, []), dtype=torch.int64), torch.tensor([len(bag) for bag in bags]))
        if dense := content.get(f"{part}_dense"):
            columns = [torch.tensor(rows, dtype=torch.float32) for rows in dense.values()]
            batch.dense_features[group] = KeyedTensor(list(dense), [column.shape[1] for column in columns], torch.cat(columns, 1))
    for part in ("labels", "sample_weights", "additional_infos"):
        getattr(batch, part).update({name: tensor(values) for name, values in (content.get(part) or {}).items()})
    return batch


def unsmoothed(config: ModelConfig) -> ModelConfig:
    "The losses without label smoothing, which TorchEasyRec's match models ignore."
    return config.model_copy(update={"losses": [Loss(softmax_cross_entropy=SoftmaxCrossEntropy()) for _ in config.losses]})


def check_dssm(content: dict, report: Report) -> None:
    config = read_tzrec_config(content["config_text"]).model_config
    smoothing = [loss.softmax_cross_entropy.label_smoothing for loss in config.losses]
    if any(smoothing):
        with report.case("label_smoothing"): raise Unsupported("ignored there; compared below without smoothing")
        config = unsmoothed(config)
    batch = make_batch(content)
    if repeats(batch.additional_infos.get("hard_neg_indices")): raise Unsupported("a duplicated hard negative is an error")
    model = create_model(config, make_features(content, config), list(content["labels"]), sample_weights=list(content.get("sample_weights") or {}))
    model.load_state_dict(convert_tzrec_state_dict(model, {name: tensor(value) for name, value in content["state_dict"].items()}), strict=True)
    model.init_loss()
    for mode, expected in content["outputs"].items():
        with report.case(mode): check_outputs(model.train(mode == "train"), batch, expected, random=mode == "train" and config.variational_dropout is not None)


def check_outputs(model, batch: Batch, expected: dict, random: bool) -> None:
    "Losses, total and predictions; of a random forward pass only the penalties."
    predictions = model.predict(batch)
    losses = model.loss(predictions, batch)
    assert set(losses) == set(expected["losses"]), f"losses are {sorted(losses)}, expected {sorted(expected['losses'])}"
    for name, value in expected["losses"].items():
        if not random or name.endswith("_feature_p_loss"): same(losses[name], value, name, SUM_ATOL)
    if random: return
    same(sum(losses.values()), expected["total_loss"], "total loss", SUM_ATOL)
    for name, value in expected["predictions"].items():
        compare = same_similarity if name == "similarity" else same
        compare(predictions[name], value, name)


def check_model(content: dict, report: Report) -> None:
    if re.search(r"\bdssm\s*:?\s*\{", content["config_text"]): return check_dssm(content, report)
    with report.case(): raise Unsupported("this model is not there yet")


CHECKERS = {"model_*": check_model}
