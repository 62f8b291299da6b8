"""What `explore.footprint` states beside what steps hold, counted: tensors, NumPy's arrays and Arrow's
buffers, each memory once. What PyTorch's own kernels hold while they sort is not seen, so a step of
lists may take more than is counted.
"""

import tracemalloc
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbench.data.published.planted import planted
from recbench.evaluate import evaluate, recommend
from recbench.evaluate.baselines import _NEIGHBOURS, _SHRINK, ItemKNN, _best
from recbench.explore.footprint import footprint
from recbench.models import create_model, match_config
from recbench.train import Trainer


class Held(TorchDispatchMode):
    "Most bytes that were alive at once of those that came within the block."

    def __init__(self):
        super().__init__()
        self.known, self.now, self.most = {}, 0, 0

    def __enter__(self):
        tracemalloc.start(1)
        self.base = tracemalloc.get_traced_memory()[0]
        return super().__enter__()

    def __exit__(self, *error):
        self.note()
        tracemalloc.stop()
        return super().__exit__(*error)

    def note(self):
        self.most = max(self.most, self.now + tracemalloc.get_traced_memory()[1] - self.base)
        tracemalloc.reset_peak()

    def gone(self, key, size):
        self.known.pop(key, None)
        self.now -= size

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.note()
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        before = {one.untyped_storage().data_ptr() for one in given}
        found = call(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if not isinstance(one, torch.Tensor): continue
            store = one.untyped_storage()
            key, size = store.data_ptr(), store.nbytes()
            if key in before or key in self.known: continue
            self.known[key] = weakref.finalize(store, self.gone, key, size)
            self.now += size
        self.note()
        return found


@pytest.fixture(scope="module")
def world():
    "As many scores as fill a block of evaluation."
    data = planted(users=2200, items=3000, clicks=8, seed=0)
    torch.manual_seed(0)
    model = create_model(match_config("DSSM", data), data.features(), ["label"])
    return data, model, footprint(data, model, limit=1e12)["bytes"]


def step_of(data, model):
    "Forward and backward pass of one batch."
    batch = next(iter(Trainer(model, data, progress=False).loader))
    def step():
        sum(model.train().loss(model.predict(batch), batch).values()).backward()
        for one in model.parameters(): one.grad = None
    return step


def test_what_is_stated_is_what_steps_hold(world):
    data, model, stated = world
    ones = data.interactions("train")
    steps = {
        "evaluation": (lambda: evaluate(model, data), 2),
        "ItemKNN": (lambda: _best(ItemKNN.fit_all(ones, _NEIGHBOURS, _SHRINK), data), 2),
        "lists of 50": (lambda: recommend(model, data, 50), 2.5),
        "training batch": (step_of(data, model), 2.5),
    }
    for name, (call, most) in steps.items():
        with Held() as held: call()
        assert 0.8 < stated[name] / held.most < most, (name, stated[name], held.most)


def test_lists_as_parquet_take_no_more_than_their_own_room():
    "Arrow's buffers while a file of lists is written, beside the bytes of the lists."
    drawn = pa.array(np.random.default_rng(0).integers(0, 2000, 4000 * 50))
    table = pa.table({"items": pa.FixedSizeListArray.from_arrays(drawn, 50)})
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    writer = pq.ParquetWriter(pa.BufferOutputStream(), table.schema, memory_pool=pool)
    writer.write_table(table)
    writer.close()
    most = pool.max_memory()
    del writer      # before its pool
    assert 1 <= drawn.nbytes / most < 2
