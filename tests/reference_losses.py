"Reference checks of `recbench.losses`: losses and gradients that EasyRec and TorchEasyRec produced."
import re

import torch
from reference_common import SUM_ATOL, Report, Unsupported, tensor
from torch.testing import assert_close

import recbench.losses
from recbench.losses import LOSSES, LossSet
from recbench.losses.pareto import ParetoEfficientMultiTaskLoss

RENAMED = {
    "f1_beta_square": "beta_square",
    "same_label_loss": "same_label",
    "loss_weight_strategy": "weight_strategy",
}
TRANSFORMS = {"lambda x: 1.0 / x": "reciprocal"}


# EasyRec: one list of cases a file, computed in float64.

def loss_class(name: str) -> type:
    if not hasattr(recbench.losses, name): raise Unsupported(f"{name} is not there yet")
    return getattr(recbench.losses, name)


def make(loss: type, params: dict) -> torch.nn.Module:
    """The loss with EasyRec's parameters.

    One that it does not know is an error of the case, not ignored.
    """
    params = {RENAMED.get(name, name): value for name, value in params.items() if value is not None}
    if "transform_fn" in params:
        if params["transform_fn"] not in TRANSFORMS:
            raise Unsupported("transforms are named, not evaluated")
        params["transform"] = TRANSFORMS[params.pop("transform_fn")]
    return loss(**params).double()


class Inputs:
    "Inputs of a case: numbers are float64 leaves, in the order in which gradients are stored."

    def __init__(self, case: dict):
        self.stored, self.leaves = case["inputs"], {}

    def leaf(self, name: str, values=None) -> torch.Tensor:
        self.leaves[name] = (
            tensor(self.stored[name] if values is None else values).double().requires_grad_()
        )
        return self.leaves[name]

    def plain(self, name: str) -> torch.Tensor: return tensor(self.stored[name])

    def sessions(self, name: str = "session_ids") -> torch.Tensor | None:
        "Ids of any kind as numbers."
        ids = self.stored.get(name)
        return None if ids is None else torch.tensor([sorted(set(ids)).index(value) for value in ids])

    def weight(self, rows: int, name: str = "weights") -> torch.Tensor | None:
        "A number stands for one number a row."
        stored = self.stored.get(name)
        return None if stored is None else tensor(stored).double().expand(rows)


def by_rows(name: str, scores: str = "logits"):
    "A checker of losses that are called with one output a row."
    def value(inputs: Inputs, params: dict) -> torch.Tensor:
        output, labels = inputs.leaf(scores), inputs.plain("labels")
        return make(loss_class(name), params)(
            output, labels, sample_weight=inputs.weight(len(labels)), session_ids=inputs.sessions()
        )
    return value


def classification(inputs: Inputs, params: dict) -> torch.Tensor:
    kind = "SoftmaxCrossEntropy" if params.get("num_class", 1) > 1 else "BinaryCrossEntropy"
    return by_rows(kind)(inputs, {name: value for name, value in params.items() if name != "num_class"})


def on_embeddings(name: str):
    def value(inputs: Inputs, params: dict) -> torch.Tensor:
        return make(loss_class(name), params)(
            inputs.leaf("embeddings"), inputs.plain("labels"), session_ids=inputs.sessions()
        )
    return value


def sv_softmax(inputs: Inputs, params: dict) -> torch.Tensor:
    scores = inputs.leaf("pos_score"), inputs.leaf("neg_scores")
    return make(loss_class("SupportVectorSoftmaxLoss"), params)(
        *scores, sample_weight=inputs.weight(len(scores[0]))
    )


def sv_softmax_in_batch(inputs: Inputs, params: dict) -> torch.Tensor:
    loss = make(
        loss_class("SupportVectorSoftmaxLoss"),
        {name: value for name, value in params.items() if name != "num_negative_samples"},
    )
    scores = recbench.losses.shifted_scores(
        inputs.leaf("user_emb"), inputs.leaf("item_emb"), inputs.plain("shifts")
    )
    positive, weight = (inputs.plain("labels") > 0).double(), inputs.weight(len(scores[0]))
    return loss(*scores, sample_weight=positive if weight is None else positive * weight)


def order_calibrate(inputs: Inputs, params: dict) -> torch.Tensor:
    towers, loss = inputs.stored["towers"], loss_class("OrderCalibrateLoss")()
    prob = {
        name: inputs.leaf(f"logits_{name}", tower["logits"]).sigmoid() for name, tower in towers.items()
    }
    return params.get("weight", 1.0) * sum(
        loss(prob[name], [prob[parent] for parent in tower.get("relation") or []])
        for name, tower in towers.items()
    )


def esmm(inputs: Inputs, params: dict) -> torch.Tensor:
    logits, click, conversion = (
        [inputs.leaf(name) for name in ("ctr_logits", "cvr_logits")],
        inputs.plain("click"),
        inputs.plain("conversion"),
    )
    weights, weight = [params.get(name, 1.0) for name in ("ctr_weight", "cvr_weight")], inputs.weight(
        len(click), "sample_weight"
    )
    regression = params.get("cvr_loss_type", "CLASSIFICATION") != "CLASSIFICATION"
    return loss_class("ESMMLoss")(*weights, regression=regression)(
        *logits, click, conversion, sample_weight=weight
    )


def loss_set(kinds: list[dict], strategy: str) -> tuple[LossSet, list[dict]]:
    "The set of a list of EasyRec loss messages, and the parameters of each."
    settings = [
        next((value for value in kind.values() if isinstance(value, dict)), {}) for kind in kinds
    ]
    names = recbench.losses.loss_names(
        [kind["loss_type"] for kind in kinds], [kind.get("loss_name") for kind in kinds]
    )
    losses = {
        name: make(
            LOSSES[kind["loss_type"]],
            {key: value for key, value in found.items() if key != "session_name"},
        )
        for name, kind, found in zip(names, kinds, settings)
    }
    learned = [
        name
        for name, kind in zip(names, kinds)
        if strategy == "Uncertainty" and kind.get("learn_loss_weight")
    ]
    weights = (
        {}
        if strategy == "Random"
        else {name: kind.get("weight", 1.0) for name, kind in zip(names, kinds) if name not in learned}
    )
    return LossSet(losses, weights, learned, strategy).double(), settings


def weighted(
    inputs: Inputs,
    kinds: list[dict],
    strategy: str,
    logits: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor | None,
) -> torch.Tensor:
    "Sum of the losses of one output."
    if strategy == "Random" and len(kinds) > 1: raise Unsupported("weights are drawn at random")
    several, settings = loss_set(kinds, strategy)
    sessions = [inputs.sessions() if found.get("session_name") else None for found in settings]
    return sum(
        several(
            {
                name: loss(logits, labels, sample_weight=weight, session_ids=ids)
                for (name, loss), ids in zip(several.losses.items(), sessions)
            }
        ).values()
    )


def multi_loss_rank(inputs: Inputs, params: dict) -> torch.Tensor:
    logits = inputs.leaf("logits")
    return weighted(
        inputs,
        params["losses"],
        params.get("strategy", "Fixed"),
        logits,
        inputs.plain("labels"),
        inputs.weight(len(logits)),
    )


def task_weight(inputs: Inputs, tower: dict, rows: int) -> torch.Tensor:
    "Weight of each row in one task."
    weight = inputs.weight(rows, "sample_weight") if tower.get("use_sample_weight", True) else None
    weight = torch.ones(rows, dtype=torch.float64) if weight is None else weight
    if "task_space_indicator_label" not in tower: return weight
    inside = tensor(inputs.stored["labels"][tower["task_space_indicator_label"]]) > 0
    return (
        weight
        * torch.where(
            inside, tower.get("in_task_space_weight", 1.0), tower.get("out_task_space_weight", 1.0)
        ).double()
    )


def multi_task(inputs: Inputs, params: dict) -> torch.Tensor:
    strategy, total = params.get("strategy", "Fixed"), 0
    if strategy == "Random": raise Unsupported("weights are drawn at random")
    for name, tower in inputs.stored["towers"].items():
        logits, labels = inputs.leaf(f"logits_{name}", tower["logits"]), tensor(
            inputs.stored["labels"][tower["label"]]
        )
        kinds = tower.get("losses") or [{"loss_type": tower.get("loss_type", "CLASSIFICATION")}]
        total = total + tower.get("weight", 1.0) * weighted(
            inputs, kinds, strategy, logits, labels, task_weight(inputs, tower, len(labels))
        )
    return total


def uncertainty(inputs: Inputs, params: dict) -> torch.Tensor:
    several, _ = loss_set(
        [{"loss_type": params["loss_type"], "loss_name": "loss", "learn_loss_weight": True}],
        "Uncertainty",
    )
    several.uncertainty.log_variance["loss"] = torch.nn.Parameter(
        torch.tensor(inputs.stored["log_variance"], dtype=torch.float64)
    )
    value = several({"loss": inputs.leaf("loss_value")})["loss"]
    inputs.leaves["log_variance"] = several.uncertainty.log_variance["loss"]
    return value


ENTRIES = {
    "classification": classification,
    "l2": by_rows("L2Loss", "pred"),
    "sigmoid_l2": by_rows("SigmoidL2Loss"),
    "log_loss": by_rows("LogLoss", "pred"),
    "binary_focal": by_rows("BinaryFocalLoss"),
    "f1_reweighted": by_rows("F1ReweightedLoss"),
    "ziln": by_rows("ZILNLoss"),
    "jrc": by_rows("JRCLoss"),
    "pairwise": by_rows("PairwiseLoss"),
    "pairwise_focal": by_rows("PairwiseFocalLoss"),
    "pairwise_logistic": by_rows("PairwiseLogisticLoss"),
    "pairwise_hinge": by_rows("PairwiseHingeLoss"),
    "listwise_rank": by_rows("ListwiseRankLoss"),
    "listwise_distill": by_rows("ListwiseDistillLoss"),
    "circle": on_embeddings("CircleLoss"),
    "multi_similarity": on_embeddings("MultiSimilarityLoss"),
    "sv_softmax": sv_softmax,
    "sv_softmax_in_batch": sv_softmax_in_batch,
    "order_calibrate": order_calibrate,
    "esmm": esmm,
    "multi_loss_rank": multi_loss_rank,
    "multi_task": multi_task,
    "uncertainty": uncertainty,
}


def check_easyrec_case(case: dict, tolerance: dict) -> None:
    "Loss and gradients of one case, with the block that `match` names."
    if case["entry"] not in ENTRIES: raise Unsupported(f"entry {case['entry']} is not there")
    inputs, wanted = Inputs(case), case[case["match"]]
    loss = ENTRIES[case["entry"]](inputs, case["params"])
    assert_close(
        loss.detach(),
        tensor(wanted["loss"]).double(),
        rtol=tolerance["loss_rtol"],
        atol=tolerance["loss_atol"],
        equal_nan=True,
        msg=lambda text: f"loss: {text}",
    )
    if "kink" in case or "grad" not in wanted: return
    found = (
        dict(
            zip(
                inputs.leaves,
                torch.autograd.grad(
                    loss, [*inputs.leaves.values()], allow_unused=True, materialize_grads=True
                ),
            )
        )
        if loss.requires_grad
        else {}
    )
    for name, stored in wanted["grad"].items():
        gradient = found.get(name, torch.zeros_like(tensor(stored).double()))
        assert_close(
            gradient,
            tensor(stored).double(),
            rtol=tolerance["grad_rtol"],
            atol=tolerance["grad_atol"],
            equal_nan=True,
            msg=lambda text, name=name: f"gradient of {name}: {text}",
        )


def check_easyrec(content: dict, report: Report) -> None:
    seen = {
        case["id"]
        for case in content["cases"]
        if sum(case["id"] == other["id"] for other in content["cases"]) > 1
    }
    for case in content["cases"]:
        with report.case(f"{case['entry']}.{case['id']}" if case["id"] in seen else case["id"]):
            check_easyrec_case(case, content["tolerance"])


# TorchEasyRec: whole grids in float32.

def check_binary_focal_loss(content: dict, report: Report) -> None:
    logits, labels = tensor(content["logits"]), tensor(content["labels"])
    for stored in content.get("cases", []):
        settings = {"gamma": stored["gamma"], "alpha": stored["alpha"]}
        with report.case(" ".join(f"{key}={value}" for key, value in settings.items())):
            check_focal_case(logits, labels, settings, stored)
    if "soft_labels" in content:
        stored = content["soft_labels"]
        with report.case("soft_labels"):
            check_focal_case(
                logits,
                tensor(stored["labels"]),
                {"gamma": stored.get("gamma", 2.0), "alpha": stored.get("alpha", 0.5)},
                stored,
            )
    for name in content.get("errors", {}):
        with report.case(name): check_refused(name)


def check_refused(name: str) -> None:
    "A case named after its wrong argument: alpha0, gamma_neg, 2d."
    wrong = re.fullmatch(r"(alpha|gamma)_?(neg|[\d.]+)", name)
    if not wrong and name != "2d": raise Unsupported("the arguments are not stored")
    try:
        if wrong:
            recbench.losses.BinaryFocalLoss(
                **{wrong[1]: -1.0 if wrong[2] == "neg" else float(wrong[2])}
            )
        else:
            recbench.losses.BinaryFocalLoss()(torch.zeros(2, 2), torch.zeros(2, 2))
    except ValueError:
        return
    raise AssertionError("accepted")


def check_focal_case(logits: torch.Tensor, labels: torch.Tensor, settings: dict, stored: dict) -> None:
    loss, logits = (
        recbench.losses.BinaryFocalLoss(**settings, detach_weight=True),
        logits.clone().requires_grad_(),
    )
    near = {"rtol": 1e-5, "atol": SUM_ATOL}
    value = loss(logits, labels)
    if "none" in stored:
        assert_close(
            torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(logits))]),
            tensor(stored["none"]),
            **near,
        )
    if "mean" in stored: assert_close(value, tensor(stored["mean"]), **near)
    if "sum" in stored: assert_close(value * len(logits), tensor(stored["sum"]), **near)
    for key, scale in (("grad_of_sum", len(logits)), ("grad_of_mean", 1)):
        if key in stored:
            assert_close(
                torch.autograd.grad(value, logits, retain_graph=True)[0] * scale,
                tensor(stored[key]),
                **near,
            )


def check_jrc_loss(content: dict, report: Report) -> None:
    labels, sessions = tensor(content["labels"]), tensor(content["session_ids"])
    for stored in content.get("cases", []):
        with report.case(f"alpha={stored['alpha']}"):
            logits = tensor(content["logits"]).requires_grad_()
            value = loss_class("JRCLoss")(stored["alpha"], same_label=False)(
                logits, labels, session_ids=sessions
            )
            for expected in (tensor(stored["mean"]), tensor(stored["none"]).mean()):
                assert_close(value, expected, rtol=1e-5, atol=SUM_ATOL)
            assert_close(
                torch.autograd.grad(value, logits)[0],
                tensor(stored["grad_of_mean"]),
                rtol=1e-5,
                atol=SUM_ATOL,
            )
    for name in content:
        if not (found := re.fullmatch("all_(positive|negative)_(none|mean)", name)): continue
        with report.case(name):
            stored = tensor(content[name]["value"])
            if not stored.isfinite().all(): raise Unsupported("a batch of one class has a finite loss")
            logits = tensor(content["logits"])[:stored.numel()]
            value = loss_class("JRCLoss")(same_label=False)(
                logits,
                torch.full((len(logits),), int(found[1] == "positive")),
                session_ids=sessions[: len(logits)],
            )
            assert_close(value, stored.mean(), rtol=1e-5, atol=SUM_ATOL)


def check_pareto(content: dict, report: Report) -> None:
    for i, stored in enumerate(content.get("cases", [])):
        with report.case(f"{i} min_c={stored['min_c']}"):
            gradients, values = tensor(stored["grad_matrix"]), torch.stack(
                [tensor(value) for value in stored["losses"]]
            )
            model = torch.nn.ParameterList([torch.zeros(gradients.shape[1])])
            losses = list(gradients @ model[0] + values)
            pareto = ParetoEfficientMultiTaskLoss(stored["min_c"])
            assert_close(
                pareto.weights(losses, model.parameters()),
                tensor(stored["weights"]).double(),
                rtol=1e-4,
                atol=1e-5,
            )
            assert_close(pareto(losses, model), tensor(stored["total"]), rtol=1e-4, atol=1e-5)
    if "error_sum_ge_1" in content:
        with report.case("error_sum_ge_1"):
            try:ParetoEfficientMultiTaskLoss([0.5, 0.5])
            except ValueError:pass
            else: raise AssertionError("bounds of sum 1 are accepted")


# Both folders have files of these names, so what is inside decides.

def check_losses(content: dict, report: Report) -> None:
    if "tolerance" in content and "loss_type" in content: return check_easyrec(content, report)
    for mark, check in {
        "grad_matrix": check_pareto,
        "session_ids": check_jrc_loss,
        "gamma": check_binary_focal_loss,
    }.items():
        if mark in content or mark in content["cases"][0]: return check(content, report)
    raise Unsupported("not a file of losses")


EASYREC = (
    "binary_focal",
    "circle",
    "classification",
    "esmm",
    "f1_reweighted",
    "jrc",
    "l2",
    "listwise_distill",
    "listwise_rank",
    "log_loss",
    "multi_loss",
    "multi_similarity",
    "order_calibrate",
    "pairwise_focal",
    "pairwise_hinge",
    "pairwise_logistic",
    "pairwise_loss",
    "softmax_negative_mining",
    "uncertainty_weighting",
    "ziln",
)
CHECKERS = {f"{stem}*": check_losses for stem in (*EASYREC, "pareto")}
