"Several processes against one: the same losses of every step, evaluation, decisions and checkpoints."

import os
import pickle
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from recbench.core.base import Config  # noqa: F401, imported before the fork
from recbench.data import Negatives, load_dataset  # noqa: F401
from recbench.data.published.planted import planted, planted_clicks
from recbench.models import create_model, match_config
from recbench.models.rank_configs import rank_config, rank_features
from recbench.train import Trainer


def ranks(count: int, target, *arguments) -> list:
    "What the target returns on each of so many forked ranks of a gloo group; one alone has no group."
    folder, children = Path(tempfile.mkdtemp()), []
    for rank in range(count):
        if not (child := os.fork()): _rank(folder, rank, count, target, arguments)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    said = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert not any(ended), (ended, *said)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def _rank(folder: Path, rank: int, count: int, target, arguments) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        if count > 1:
            store = dist.FileStore(str(folder / "store"), count)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
        found = target(*arguments)
        if count > 1: dist.barrier()
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
        code = 0
    except BaseException: (folder / f"{rank}.error").write_text(traceback.format_exc())
    finally: os._exit(code)


class Losses:
    "The loss of every step."

    def __init__(self): self.values = []

    def on_step(self, trainer, step, loss): self.values.append(float(loss))


def made(kind: str):
    "Data, model and settings of a kind, `<model>` or `<model>:<negatives>`."
    torch.manual_seed(0)
    name, _, negatives = kind.partition(":")
    if not negatives:
        data = planted_clicks(users=200, items=120, max_history=10)
        features = rank_features(name, data.features(), 16, 0.1)
        config = rank_config(name, features, hidden_units=(32, 16))
        return data, create_model(config, features, [data.schema.label]), {}
    data = planted(users=200, items=120, seed=0)
    config = match_config(name, data, hidden_units=(32,), output_dim=16, share_embedding=name != "DSSM",
                          in_batch_negative=negatives in ("in_batch", "mixed"))
    model = create_model(config, data.features(), [])
    for module in model.modules():
        if isinstance(module, nn.Dropout): module.p = 0.0
    return data, model, {"negatives": Negatives(kind=negatives, num_sample=33), "valid_rows": "all"}


def trained(kind: str, sharding: str | None, steps: int) -> tuple[list[float], dict[str, float]]:
    "Losses of the steps, and the last epoch's row."
    data, model, settings = made(kind)
    losses = Losses()
    trainer = Trainer(model, data, batch_size=64, steps=steps, seed=1, progress=False,
                      callbacks=[losses], sharding=sharding, **settings)
    trainer.fit()
    epoch = {name: value for name, value in trainer.history[-1].items() if name != "seconds"}
    return losses.values, epoch


@pytest.mark.parametrize("kind,shardings", [
    ("DeepFM", ("table_wise", "row_wise", None)),
    ("DSSM:sampled", ("row_wise",)),
    ("DSSM:in_batch", ("table_wise",)),
])
def test_two_ranks_train_what_one_process_trains(kind, shardings):
    ((one, epoch),) = ranks(1, trained, kind, None, 20)
    for sharding in shardings:
        found = ranks(2, trained, kind, sharding, 20)
        assert found[0] == found[1]
        torch.testing.assert_close(found[0][0], one, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[0][1], epoch, rtol=0, atol=1e-5)
