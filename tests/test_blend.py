"""A blend's validation metrics are those of `evaluate`, above the 200 items that a list keeps too."""

import pytest
import torch

from recbench.data.published.planted import planted
from recbench.evaluate import Blend, evaluate, recommend
from recbench.evaluate.baselines import EASE


@pytest.mark.parametrize("cut", [50, 300])
def test_members_are_judged_as_evaluation_judges_them(cut):
    data = planted(users=150, items=600, seed=0)
    train = data.interactions("train")
    members = {f"EASE {l2:.0f}": EASE(l2).fit(train) for l2 in (5.0, 500.0)}     # no ties at the edge
    blend = Blend(members, data, metric=f"recall@{cut}")
    for name, member in members.items():
        told = evaluate(member, data, (cut,), "valid").values[f"recall@{cut}"].mean()
        assert blend.valid[name] == pytest.approx(told, abs=1e-6)
    assert blend.valid["blend"] >= max(blend.valid[name] for name in members)


class Narrow:
    "Another model's first items only, as an index gives them."
    def __init__(self, model, beam): self.model, self.beam = model, beam

    def reaching(self, k): return Narrow(self.model, max(k, self.beam))

    def score(self, history):
        scores = self.model.score(history)
        best, items = scores.topk(self.beam, dim=1)
        return torch.full_like(scores, torch.nan).scatter(1, items, best)


def test_members_reach_as_far_as_is_asked():
    data = planted(users=60, items=90, seed=0)
    narrow = Narrow(EASE(50.0).fit(data.interactions("train")), 3)
    blend = Blend({"narrow": narrow}, data, metric="recall@30")
    told = evaluate(narrow, data, (30,), "valid").values["recall@30"].mean()
    assert blend.valid["narrow"] >= told > 0.5      # it has items at the other places, by lot
    lists, own = recommend(blend, data, 30).items, recommend(narrow, data, 30).items
    assert (lists == own)[own >= 0].all() and (own >= 0).sum(1).max() > 20 and narrow.beam == 3
