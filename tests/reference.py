"""Compare recbench with numbers that TorchEasyRec produced: `python tests/reference.py FOLDER`.

Prints `ok NAME`, `MISS NAME what` or `unsupported NAME reason` for every case of every JSON file,
then `N passed, N failed, N unsupported`. The exit code is 1 when anything missed.
"""
import json
import re
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

import recbench.metrics
from recbench.core.config import Loss, ModelConfig, SoftmaxCrossEntropy
from recbench.data.batch import BASE, NEG, Batch
from recbench.data.features import Feature, IdFeature, RawFeature, SequenceFeature
from recbench.interop import convert_tzrec_state_dict, read_tzrec_config
from recbench.layers import VariationalDropout
from recbench.matching import absent_cells, arange_int_label, in_batch_similarity, sampled_similarity, softmax_matching_loss, zero_int_label
from recbench.metrics import RecallAtK, TrainMetricWrapper
from recbench.models import create_model
from recbench.train import schedules

SUM_ATOL = 1e-5  # losses and gradients are sums over many float32 terms


class Unsupported(Exception):
    "Raised in a case that recbench does not have, or answers differently on purpose."


class Report:
    "Prints and counts the outcome of each case."

    def __init__(self, stem: str, counts: Counter):
        self.stem, self.counts = stem, counts

    def line(self, outcome: str, name: str, detail: object = "") -> None:
        self.counts[outcome] += 1
        print(outcome, "/".join(filter(None, [self.stem, name])).replace(" ", "_"), *str(detail).split())

    @contextmanager
    def case(self, name: str = ""):
        "What happens inside decides: nothing raised is ok, Unsupported is that, anything else is a miss."
        try: yield
        except Unsupported as reason: self.line("unsupported", name, reason)
        except Exception as error: self.line("MISS", name, f"{type(error).__name__}: {error}")
        else: self.line("ok", name)


def tensor(stored: dict | list | float | torch.Tensor | None) -> torch.Tensor | None:
    "A stored tensor or plain numbers; non-finite numbers are stored as strings."
    def numbers(data): return [numbers(d) for d in data] if isinstance(data, list) else float(data) if isinstance(data, str) else data
    if stored is None or isinstance(stored, torch.Tensor): return stored
    if not isinstance(stored, dict): return torch.tensor(numbers(stored))
    return torch.tensor(numbers(stored["data"]), dtype=getattr(torch, stored["dtype"])).reshape(stored["shape"])


def same(actual: torch.Tensor, stored, what: str, atol: float = 1e-6) -> None:
    expected = tensor(stored).to(actual.dtype)
    assert_close(actual.detach().reshape(expected.shape), expected, rtol=1e-5, atol=atol, equal_nan=True, msg=lambda text: f"{what}: {text}")


def same_similarity(actual: torch.Tensor, stored, what: str) -> None:
    "Cells without a hard negative hold -1e32 there: they must be absent here too, and vanish after a softmax."
    expected = tensor(stored)
    absent = expected < -1e30
    assert torch.equal(absent_cells(actual), absent), f"{what}: other cells are absent"
    same(actual.masked_fill(absent, 0), expected.masked_fill(absent, 0), what)
    same(actual.softmax(1), expected.softmax(1), f"softmax of {what}")


# ---- metrics

def tie_decides(preds: torch.Tensor, target: torch.Tensor, k: int) -> bool:
    "Is a positive tied with others across the cut-off?"
    row, column = target.nonzero(as_tuple=True)
    own, rivals = preds[row, column].unsqueeze(1), preds[row]
    above, tied = (rivals > own).sum(1), (rivals == own).sum(1)
    return bool(((above < k) & (above + tied > k)).any())


def check_recall_at_k(content: dict, report: Report) -> None:
    for stored in content.get("cases", []):
        k, metric = stored["top_k"], RecallAtK(top_k=stored["top_k"])
        with report.case(f"top_k={k}"):
            for i, batch in enumerate(stored["batches"]):
                preds, target = tensor(batch["preds"]), tensor(batch["target"])
                if tie_decides(preds, target, k): raise Unsupported("order among tied scores")
                metric.update(preds, target)
                same(metric.compute(), batch["running_value"], f"value after batch {i}")
            same(metric.compute(), stored["final"], "final")
    for stored in content.get("ties_nan_inf", []):
        with report.case(f"ties top_k={stored['top_k']}"):
            preds, target = tensor(stored["preds"]), tensor(stored["target"])
            if tie_decides(preds, target, stored["top_k"]): raise Unsupported("order among tied scores")
            metric = RecallAtK(top_k=stored["top_k"])
            metric.update(preds, target)
            same(metric.compute(), stored["value"], "value")
    if "all_false_target" in content:
        with report.case("all_false_target"):
            metric = RecallAtK()
            metric.update(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool))
            same(metric.compute(), content["all_false_target"], "value")
    if "no_update" in content:
        with report.case("no_update"): same(RecallAtK().compute(), content["no_update"], "value")


def named_metric(name: str):
    "The metric a case of train_metric_wrapper is about."
    if name.startswith("accuracy"): return BinaryAccuracy()
    if name.startswith("mae"): return MeanAbsoluteError()
    if name.startswith("mse"): return MeanSquaredError()
    if name.startswith("auroc"): return BinaryAUROC()
    if found := re.fullmatch(r"recall@(\d+)", name): return RecallAtK(top_k=int(found[1]))
    found = re.fullmatch(r"decay_auc_T(\d+)", name)
    if found and hasattr(recbench.metrics, "DecayAUC"): return recbench.metrics.DecayAUC(thresholds=int(found[1]))
    raise Unsupported(f"metric {name} is not there yet")


def check_train_metric_wrapper(content: dict, report: Report) -> None:
    inputs = {}
    for stored in content["cases"]:
        name, rate, step, values = (stored[key] for key in ("metric", "decay_rate", "decay_step", "values_after_each_update"))
        if isinstance(stored["inputs"], list): inputs[name] = stored["inputs"]
        with report.case(f"{name} rate={rate} step={step}"):
            windows = [float(tensor(value)) for value in values[step - 1::step]]
            if 0.0 in windows[:-1] and rate > 0: raise Unsupported("an exact 0.0 is a value, not unset")
            wrapper = TrainMetricWrapper(named_metric(name), decay_rate=rate, decay_step=step)
            for i, batch in enumerate(inputs[name]):
                wrapper.update(tensor(batch["preds"]), tensor(batch["target"]))
                same(wrapper.compute(), values[i], f"value after update {i}")


# ---- matching

def repeats(indices: torch.Tensor | None) -> bool:
    "Does a (row, column) of the hard negatives stand twice?"
    return indices is not None and len(indices.unique(dim=0)) < len(indices)


def check_sampled(stored: dict) -> None:
    user, item, indices = (tensor(stored[key]) if key in stored else None for key in ("user", "item", "hard_neg_indices"))
    user.requires_grad_(), item.requires_grad_()
    if repeats(indices):
        try: sampled_similarity(user, item, indices)
        except ValueError as error: raise Unsupported("a duplicated hard negative is an error") from error
        raise AssertionError("a duplicated hard negative was accepted")
    similarity = sampled_similarity(user, item, indices)
    for key in stored:
        if key.startswith("similarity"): same_similarity(similarity / float(key.partition("/")[2] or 1), stored[key], key)
    if "ce_mean_label0" not in stored: return
    loss = F.cross_entropy(similarity, zero_int_label(similarity))
    loss.backward()
    same(loss, stored["ce_mean_label0"], "cross entropy", SUM_ATOL)
    same(user.grad, stored["grad_user"], "gradient of user", SUM_ATOL)
    same(item.grad, stored["grad_item"], "gradient of item", SUM_ATOL)


def check_match_similarity_loss(content: dict, report: Report) -> None:
    for stored in content.get("cases", []):
        with report.case(stored["name"]): check_sampled(stored)
    if "in_batch" in content:
        with report.case("in_batch"):
            stored = content["in_batch"]
            similarity, weight = in_batch_similarity(tensor(stored["user"]), tensor(stored["item"])), tensor(stored["sample_weight"])
            same(similarity, stored["similarity"], "similarity")
            same(arange_int_label(similarity), stored["labels"], "labels")
            same(F.cross_entropy(similarity, arange_int_label(similarity), reduction="none"), stored["ce_none"], "cross entropy", SUM_ATOL)
            same(softmax_matching_loss(similarity, arange_int_label(similarity)), stored["ce_mean"], "mean", SUM_ATOL)
            same(softmax_matching_loss(similarity, arange_int_label(similarity), weight), stored["weighted"], "weighted mean", SUM_ATOL)
            same(softmax_matching_loss(similarity, arange_int_label(similarity), torch.zeros_like(weight)), stored["zero_weights"], "all weights zero", SUM_ATOL)
    if "empty_hard_negs" in content:
        with report.case("empty_hard_negs"):
            user, item = torch.randn(2, 3), torch.randn(4, 3)
            same(sampled_similarity(user, item, torch.zeros(0, 2, dtype=torch.int64)), sampled_similarity(user, item), "no hard negatives")
            raise Unsupported("an empty index tensor means no hard negatives")


def check_variational_dropout(content: dict, report: Report) -> None:
    layer = VariationalDropout(content["dims"], regularization_lambda=content["lambda"], temperature=content["temperature"])
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
            same(layer.feature_p.grad, stored["grad_feature_p_of_sum(train_out)+penalty"], "gradient", SUM_ATOL)


# ---- training

def check_lr_schedules(content: list, report: Report) -> None:
    for i, stored in enumerate(content):
        with report.case(f"{i}_{stored['class']}"):
            schedule = getattr(schedules, stored["class"].removesuffix("LR"))(**stored["kwargs"])
            rates = stored["lr_at_step_0..12"]
            same(torch.tensor([schedule.at(step, stored["base_lr"]) for step in range(len(rates))], dtype=torch.float64), rates, "rates", atol=1e-9)


# ---- models

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


# ---- all files of a folder

CHECKERS = {
    "recall_at_k*": check_recall_at_k,
    "train_metric_wrapper*": check_train_metric_wrapper,
    "match_similarity_loss*": check_match_similarity_loss,
    "variational_dropout*": check_variational_dropout,
    "lr_schedules*": check_lr_schedules,
    "model_*": check_model,
}


def check_file(path: Path, counts: Counter) -> None:
    report = Report(path.stem, counts)
    checker = next((check for pattern, check in CHECKERS.items() if fnmatch(path.stem, pattern)), None)
    try:
        if checker is None: raise Unsupported("not covered yet")
        checker(json.loads(path.read_text(encoding="utf-8")), report)
    except Unsupported as reason: report.line("unsupported", "", reason)
    except Exception as error: report.line("MISS", "", f"{type(error).__name__}: {error}")


def main(folder: str) -> int:
    warnings.filterwarnings("ignore", message=".*compute.*method of metric.*")
    files, counts = sorted(Path(folder).glob("*.json")), Counter()
    if not files: sys.exit(f"no JSON files in {folder}")
    for path in files: check_file(path, counts)
    print(f"{counts['ok']} passed, {counts['MISS']} failed, {counts['unsupported']} unsupported")
    return int(counts["MISS"] > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit("usage: python tests/reference.py FOLDER")
    sys.exit(main(sys.argv[1]))
