"Reference checks of `recbench.matching`."
import torch
import torch.nn.functional as F
from reference_common import SUM_ATOL, Report, Unsupported, same, same_similarity, tensor

from recbench.matching import arange_int_label, in_batch_similarity, sampled_similarity, softmax_matching_loss, zero_int_label


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


CHECKERS = {"match_similarity_loss*": check_match_similarity_loss}
