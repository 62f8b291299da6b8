"""What does not fit into memory is refused by its name, before it starts."""

import numpy as np
import pandas as pd
import pytest

from recbench.core import sizes
from recbench.data.feed.negatives import Negatives
from recbench.data.published.planted import planted
from recbench.data.sets.own import dataset_from_frames
from recbench.data.sets.splits import Split
from recbench.evaluate.baselines import EASE, ItemKNN
from recbench.evaluate.recommendations import recommend
from recbench.evaluate.retrieval import evaluate
from recbench.models.usual import usual_model
from recbench.train import Trainer, memory

EVENTS = pd.DataFrame({"user_id": np.arange(5000) % 300, "item_id": np.arange(5000) % 101,
                       "timestamp": np.arange(5000)})


@pytest.fixture(scope="module")
def world():
    data = planted(users=300, items=120, seed=0)
    return data, usual_model("DSSM", data)


def full_softmax(data, model):
    return Trainer(model, data, negatives=Negatives(kind="full"), batch_size=4096, epochs=1)


STEPS = {
    "loading own data (5,000 rows)": (1e5, lambda data, model: dataset_from_frames(
        EVENTS, split=Split(kind="leave-last"), verbose=False)),
    "ItemKNN of 120 items": (5e5, lambda data, model: ItemKNN().fit(data.interactions("train"))),
    "EASE of 120 items": (1e6, lambda data, model: EASE().fit(data.interactions("train"))),
    "evaluation of DSSM": (1e6, lambda data, model: evaluate(model, data)),
    "lists of 50 for 300 users by DSSM": (1e4, lambda data, model: recommend(model, data, 50)),
    "DSSM: validation": (4e7, full_softmax),
    "DSSM: training batch": (1.2e7, full_softmax),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_does_not_fit_is_named(step, world, monkeypatch):
    limit, call = STEPS[step]
    for place in (sizes, memory): monkeypatch.setattr(place, "available_bytes", lambda: limit)
    with pytest.raises(MemoryError, match="and .* can be had") as refused: call(*world)
    assert str(refused.value).startswith(f"{step} needs ")
