"Reference checks of `recbench.matching`."
import torch
import torch.nn.functional as F
from reference_common import SUM_ATOL, Report, Unsupported, same, same_similarity, tensor

from recbench.layers import CapsuleLayer
from recbench.matching import (
    arange_int_label,
    in_batch_similarity,
    sampled_similarity,
    softmax_matching_loss,
    zero_int_label,
)
from recbench.models.mind import label_aware_attention


def repeats(indices: torch.Tensor | None) -> bool:
    "Does a (row, column) of the hard negatives stand twice?"
    return indices is not None and len(indices.unique(dim=0)) < len(indices)


def check_sampled(stored: dict) -> None:
    user, item, indices = (
        tensor(stored[key]) if key in stored else None for key in ("user", "item", "hard_neg_indices")
    )
    user.requires_grad_(), item.requires_grad_()
    if repeats(indices):
        try:
            sampled_similarity(user, item, indices)
        except ValueError as error:
            raise Unsupported("a duplicated hard negative is an error") from error
        raise AssertionError("a duplicated hard negative was accepted")
    similarity = sampled_similarity(user, item, indices)
    for key in stored:
        if key.startswith("similarity"):
            same_similarity(similarity / float(key.partition("/")[2] or 1), stored[key], key)
    if "ce_mean_label0" not in stored:
        return
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
            similarity, weight = in_batch_similarity(
                tensor(stored["user"]), tensor(stored["item"])
            ), tensor(stored["sample_weight"])
            same(similarity, stored["similarity"], "similarity")
            same(arange_int_label(similarity), stored["labels"], "labels")
            same(
                F.cross_entropy(similarity, arange_int_label(similarity), reduction="none"),
                stored["ce_none"],
                "cross entropy",
                SUM_ATOL,
            )
            same(
                softmax_matching_loss(similarity, arange_int_label(similarity)),
                stored["ce_mean"],
                "mean",
                SUM_ATOL,
            )
            same(
                softmax_matching_loss(similarity, arange_int_label(similarity), weight),
                stored["weighted"],
                "weighted mean",
                SUM_ATOL,
            )
            same(
                softmax_matching_loss(
                    similarity, arange_int_label(similarity), torch.zeros_like(weight)
                ),
                stored["zero_weights"],
                "all weights zero",
                SUM_ATOL,
            )
    if "empty_hard_negs" in content:
        with report.case("empty_hard_negs"):
            user, item = torch.randn(2, 3), torch.randn(4, 3)
            same(
                sampled_similarity(user, item, torch.zeros(0, 2, dtype=torch.int64)),
                sampled_similarity(user, item),
                "no hard negatives",
            )
            raise Unsupported("an empty index tensor means no hard negatives")


def check_routing(stored: dict) -> None:
    "Interests from stored first logits; those of positions behind the padded sequence are never read."
    sequence, matrix, config = (
        tensor(stored["x"]),
        tensor(stored["state_dict"]["bilinear_matrix"]),
        stored["config"],
    )
    layer = CapsuleLayer(len(matrix), **config)
    layer.load_state_dict({"bilinear_matrix": matrix}, strict=True)
    first = (
        None
        if stored["routing_logits_init"] == "zeros"
        else config.get("routing_logits_stddev", 1)
        * tensor(stored["routing_logits_init"])[:, : sequence.shape[1]]
    )
    for mode in (True, False):
        interests, present = layer.train(mode)(sequence, tensor(stored["seq_len"]), first)
        assert torch.equal(present, tensor(stored["capsule_mask"])), "other interests are there"
        same(interests, stored["output"], "interests")


def check_capsule_mind(content: dict, report: Report) -> None:
    for stored in content.get("routing", []):
        with report.case(stored["name"]): check_routing(stored)
    if "label_aware_attention" in content:
        with report.case("label_aware_attention"):
            stored = content["label_aware_attention"]
            interests, mask, items = (
                tensor(stored[key]) for key in ("user_interests", "mask", "item_emb")
            )
            same(
                label_aware_attention(interests, mask, items[: len(interests)], stored["simi_pow"]),
                stored["output"],
                "user",
            )


CHECKERS = {"match_similarity_loss*": check_match_similarity_loss, "capsule_mind*": check_capsule_mind}
