"Reference checks of `recbench.metrics`."
import re

import torch
from reference_common import Report, Unsupported, same, tensor
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from recbench.metrics import (
    XAUC,
    DecayAUC,
    GroupedAUC,
    GroupedXAUC,
    NormalizedEntropy,
    RecallAtK,
    RelativeL1,
    TrainMetricWrapper,
    UniqueRatio,
)


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
    if found: return DecayAUC(thresholds=int(found[1]))
    raise Unsupported(f"metric {name} is not there yet")


def check_train_metric_wrapper(content: dict, report: Report) -> None:
    inputs = {}
    for stored in content["cases"]:
        name, rate, step, values = (
            stored[key] for key in ("metric", "decay_rate", "decay_step", "values_after_each_update")
        )
        if isinstance(stored["inputs"], list): inputs[name] = stored["inputs"]
        with report.case(f"{name} rate={rate} step={step}"):
            windows = [float(tensor(value)) for value in values[step - 1::step]]
            if 0.0 in windows[:-1] and rate > 0: raise Unsupported("an exact 0.0 is a value, not unset")
            wrapper = TrainMetricWrapper(named_metric(name), decay_rate=rate, decay_step=step)
            for i, batch in enumerate(inputs[name]):
                wrapper.update(tensor(batch["preds"]), tensor(batch["target"]))
                same(wrapper.compute(), values[i], f"value after update {i}")


def after(metric, *columns):
    "Value of a metric after one update."
    metric.update(*columns)
    return metric.compute()


def refused(call, what: str) -> None:
    "An error there must be an error here, and one that says what is wrong."
    try: call()
    except ValueError: return
    raise AssertionError(f"{what} was accepted")


def check_decay_auc(content: dict, report: Report) -> None:
    inputs = [(tensor(batch["preds"]), tensor(batch["target"])) for batch in content.get("inputs", [])]
    for stored in content.get("cases", []):
        with report.case(f"thresholds={stored['thresholds']} decay={stored['decay']}"):
            metric = DecayAUC(thresholds=stored["thresholds"])
            for i, (step, (preds, target)) in enumerate(zip(stored["steps"], inputs, strict=True)):
                metric.update(preds, target)
                same(metric.compute(), step["compute_before_decay"], f"before the decay of step {i}")
                if step["decayed"]: metric.decay(stored["decay"])
                same(metric.compute(), step["compute_after"], f"after step {i}")
    if "logits_outside_unit_interval_are_sigmoided" in content:
        stored = content["logits_outside_unit_interval_are_sigmoided"]
        with report.case("logits"):
            preds, target = tensor(stored["preds"]), tensor(stored["target"])
            for scores, value in ((preds, "value"), (preds.sigmoid(), "value_of_sigmoid_input")):
                metric = DecayAUC(
                    stored.get("thresholds", 10), logits=value == "value"
                )  # left unsaid, they were 10; logits were guessed
                metric.update(scores, target)
                metric.decay(0.9)
                same(metric.compute(), stored[value], value)
    if "one_class" in content:
        with report.case("one_class"):
            metric = DecayAUC()
            metric.update(torch.rand(5), torch.ones(5, dtype=torch.int64))
            metric.decay(0.9)
            same(metric.compute(), content["one_class"], "value")
    if "bad_target" in content:
        with report.case("bad_target"):
            refused(
                lambda: DecayAUC().update(torch.rand(2), torch.tensor([-1, 2])),
                "a target outside 0 and 1",
            )


def check_grouped_auc(content: dict, report: Report) -> None:
    for stored in content.get("cases", []):
        with report.case(stored["name"]):
            columns = [tensor(stored[name]) for name in ("preds", "target", "key")]
            same(after(GroupedAUC(), *columns), stored["value"], "value")
            split, metric = stored.get("split_at", 0), GroupedAUC()
            for part in (slice(split), slice(split, None)):
                metric.update(*(column[part] for column in columns))
            same(metric.compute(), stored["value"], "value in two updates")


def tied(values: torch.Tensor) -> bool:
    return len(values.unique()) < len(values)


def agree(counted: torch.Tensor, drawn: torch.Tensor, pairs: float) -> None:
    "All pairs counted must lie near the mean of random draws, which cannot be met exactly."
    assert (
        abs(counted - drawn) < 4 * 0.5 / pairs**0.5
    ), f"all pairs {counted}, mean of the draws {drawn}"
    raise Unsupported(
        "values depend on TorchEasyRec's random draws; their mean agrees with all pairs counted"
    )


def check_xauc(content: dict, report: Report) -> None:
    if "in_batch" in content:
        stored, whole = content["in_batch"], XAUC(in_batch=True, ties="wrong")
        for i, batch in enumerate(stored["batches"]):
            preds, target = tensor(batch["preds"]), tensor(batch["targets"])
            whole.update(preds, target)
            with report.case(f"in_batch {i}"):
                same(
                    after(XAUC(in_batch=True, ties="wrong"), preds, target),
                    batch["in_batch_xauc"],
                    "value",
                )
                same(
                    after(XAUC(ties="wrong"), preds, target),
                    batch["in_batch_xauc"],
                    "value over all rows",
                )
            with report.case(f"in_batch {i} default"):
                if tied(preds) or tied(target): raise Unsupported("ties counted as wrong")
                same(after(XAUC(in_batch=True), preds, target), batch["in_batch_xauc"], "value")
        with report.case("in_batch mean"):
            same(whole.compute(), stored["metric_mean_over_batches"], "value")
        with report.case("in_batch single_element"):
            same(
                after(XAUC(in_batch=True), torch.rand(1), torch.rand(1)),
                stored["single_element"],
                "value",
            )
    if "sampled" in content:
        stored = content["sampled"]
        with report.case("sampled"):
            preds, target, drawn = (
                tensor(stored["preds"]),
                tensor(stored["targets"]),
                tensor([float(tensor(value)) for value in stored["values"]]),
            )
            pairs = len(preds) * (len(preds) - 1) / 2 * stored["sample_ratio"] * len(drawn)
            agree(after(XAUC(stored["sample_ratio"], ties="wrong"), preds, target), drawn.mean(), pairs)
    for stored in content.get("max_pairs", []):
        with report.case(f"max_pairs={stored['max_pairs']}"):
            raise Unsupported(
                "an error there: here as many pairs as there are means all"
                if "error" in stored["result"]
                else "the value depends on TorchEasyRec's random draws"
            )
    if "tiny_ratio_zero_pairs" in content:
        with report.case("tiny_ratio"):
            assert after(XAUC(sample_ratio=1e-9), torch.rand(20), torch.rand(20)).isfinite()
            raise Unsupported(
                "NaN there, where a small ratio draws no pair: few rows are all compared here"
            )


def check_grouped_xauc(content: dict, report: Report) -> None:
    if "preds" in content:
        preds, target, key, cap = (
            tensor(content["preds"]),
            tensor(content["target"]),
            tensor(content["key"]),
            content["max_pairs_per_group"],
        )
        with report.case("sampled"):
            drawn = tensor([float(tensor(value)) for value in content["values"]])
            agree(
                after(GroupedXAUC(cap, ties="wrong"), preds, target, key),
                drawn.mean(),
                cap * len(key.unique()) * len(drawn),
            )
    if "pairs_only" in content:
        stored = content["pairs_only"]
        columns = [tensor(stored[name]) for name in ("preds", "target", "key")]
        with report.case("pairs_only"):
            same(after(GroupedXAUC(ties="wrong"), *columns), stored["value"], "value")


def check_normalized_entropy(content: dict, report: Report) -> None:
    eta = content.get("eta", 1e-12)
    for i, stored in enumerate(content.get("cases", [])):
        with report.case(stored.get("name", str(i))):
            same(
                after(
                    NormalizedEntropy(stored.get("eta", eta)),
                    tensor(stored["preds"]),
                    tensor(stored["target"]),
                ),
                stored["value"],
                "value",
            )
    if "no_update" in content:
        with report.case("no_update"):
            same(NormalizedEntropy(eta).compute(), content["no_update"], "value")


def check_distances(content: dict, report: Report) -> None:
    if "unique_batches" in content:
        with report.case("unique_ratio"):
            metric = UniqueRatio()
            for batch in content["unique_batches"]: metric.update(tensor(batch))
            same(metric.compute(), content["unique_ratio"], "value")
    if "relative_l1" in content:
        with report.case("relative_l1"):
            same(
                after(
                    RelativeL1(content["epsilon"]),
                    tensor(content["rl1_preds"]),
                    tensor(content["rl1_target"]),
                ),
                content["relative_l1"],
                "value",
            )


CHECKERS = {
    "recall_at_k*": check_recall_at_k,
    "train_metric_wrapper*": check_train_metric_wrapper,
    "decay_auc*": check_decay_auc,
    "grouped_auc*": check_grouped_auc,
    "xauc*": check_xauc,
    "grouped_xauc*": check_grouped_xauc,
    "normalized_entropy*": check_normalized_entropy,
    "unique_ratio_relative_l1*": check_distances,
}
