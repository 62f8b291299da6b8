"Reference checks of `recbench.metrics`."
import re

import torch
from reference_common import Report, Unsupported, same, tensor
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

import recbench.metrics
from recbench.metrics import RecallAtK, TrainMetricWrapper


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


CHECKERS = {
    "recall_at_k*": check_recall_at_k,
    "train_metric_wrapper*": check_train_metric_wrapper,
}
