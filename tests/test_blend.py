"""A blend's validation metrics are those of `evaluate`, above the 200 items that a list keeps too."""

import pytest

from recbench.data.published.planted import planted
from recbench.evaluate import Blend, evaluate
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
