"""RecTools' SASRec for `sasrec_time.py`, run by the Python of its own environment:
`python sasrec_peer.py EVENTS SETTINGS`.

EVENTS is an .npz file: users and items of the training rows, each user's in the order of its time, and
for each user 0, 1, ... the item of validation and of test. SETTINGS is JSON: `target`, `epochs`,
`seed`, `steps` (null: all; else so many of one epoch, and what a whole one would take), and arguments
of `SASRecModel`. After every epoch one line of JSON: CPU seconds of training until then, what
evaluation took not counted, the epoch's mean loss, and hit rate@10 of the test over all items, history
masked. It ends at the target.
"""

import json
import logging
import sys
import time
import warnings

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def training_rows(users: np.ndarray, items: np.ndarray) -> Dataset:
    "Rows in their order, which their times stand for."
    frame = pd.DataFrame({"user_id": users, "item_id": items, "weight": 1.0})
    frame["datetime"] = pd.Timestamp(0) + pd.to_timedelta(np.arange(len(frame)), "s")
    return Dataset.construct(frame)


class Clock(Callback):
    "CPU seconds of training, and the hit rate after each epoch."

    def __init__(self, events: dict[str, np.ndarray], target: float):
        self.events, self.target = events, target
        self.seconds, self.losses = 0.0, []

    def on_train_epoch_start(self, trainer, module) -> None: self.began = time.process_time()

    def on_train_batch_end(self, trainer, module, outputs, batch, place) -> None:
        self.losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer, module) -> None:
        self.seconds += time.process_time() - self.began
        if trainer.limit_train_batches != 1.0:
            rows = module.data_preparator.train_dataset.user_id_map.size
            whole = -(-rows // module.data_preparator.batch_size)
            self.seconds *= whole / len(self.losses)
        rate = 0.0 if trainer.limit_train_batches != 1.0 else hit_rate(module, self.events)
        about = {"epoch": trainer.current_epoch + 1, "seconds": self.seconds,
                 "loss": float(torch.stack(self.losses).mean()), "hit_rate": rate}
        print(json.dumps(about), flush=True)
        self.losses, trainer.should_stop = [], rate >= self.target


def histories(events: dict[str, np.ndarray], to_internal: np.ndarray) -> list[np.ndarray]:
    "Items of each user before the test, the newest last, as the model numbers them."
    order = np.argsort(events["users"], kind="stable")
    ends = np.bincount(events["users"]).cumsum()[:-1]
    rows = np.split(to_internal[events["items"]][order], ends)
    return [np.append(row, item) for row, item in zip(rows, to_internal[events["valid"]])]


@torch.inference_mode()
def hit_rate(module, events: dict[str, np.ndarray]) -> float:
    "Share of the users whose test item is among the ten best that they have not had."
    known = module.data_preparator.item_id_map
    to_internal = np.zeros(1 + max(events[name].max() for name in ("items", "valid", "test")), int)
    to_internal[known.external_ids[1:].astype(int)] = np.arange(1, known.size)     # others: padding, 0
    network, length, hits = module.torch_model.eval(), module.data_preparator.session_max_len, 0
    vectors = network.item_model.get_all_embeddings()
    before, wanted = histories(events, to_internal), to_internal[events["test"]]
    for start in range(0, len(before), 256):
        rows = before[start : start + 256]
        x = torch.zeros(len(rows), length, dtype=torch.int64)
        for place, row in enumerate(rows):
            last = row[-length:]
            x[place, length - len(last):] = torch.from_numpy(last)
        scores = network.encode_sessions({"x": x}, vectors)[:, -1] @ vectors.T
        own = torch.from_numpy(wanted[start : start + 256])
        target = scores.gather(1, own[:, None])
        for place, row in enumerate(rows): scores[place, torch.from_numpy(row)] = -torch.inf
        scores[:, 0] = -torch.inf
        hits += int((((scores >= target).sum(1) < 10) & (own > 0)).sum())
    network.train()
    return hits / len(before)


def main() -> None:
    events, settings = dict(np.load(sys.argv[1])), json.loads(sys.argv[2])
    target, epochs, steps = (settings.pop(name) for name in ("target", "epochs", "steps"))
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    seed_everything(settings.pop("seed"))
    model = SASRecModel(**settings)
    model._trainer = Trainer(
        max_epochs=1 if steps else epochs, limit_train_batches=steps or 1.0, accelerator="cpu",
        devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Clock(events, target)]
    )
    model.fit(training_rows(events["users"], events["items"]))


if __name__ == "__main__": main()
