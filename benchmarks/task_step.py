"""A training step of MMoE against the rate of its matrix products alone.

    python benchmarks/task_step.py [--experts 4] [--rounds 9] [--steps 2]

26 features of 100,000 ids, width 16, 13 numbers, batches of 8,192 ready in memory (the workload of
`rank_step.py`); 4 experts of 256-128, a linear gate and a tower of 64 for each of 2 tasks; float32, CPU
time of one thread, the contenders taking turns.

recbench   forward, backward, update: `TrainWrapper`, Adam for the layers, row-wise Adagrad of the
           tables inside the backward pass
products   the step's matrix products: forward, gradient of the weights, gradient of the inputs, for
           every linear layer of experts, gates and towers, each into memory that is already there

Target, in samples a CPU second: recbench at least 0.6 of products.
"""

import argparse
from collections.abc import Callable
from itertools import cycle
from statistics import median

import torch
from _timing import interleaved, matrix_products, ratio, verdict
from rank_peers import BATCH, IDS, IDS_BY_NAME, NUMBERS, NUMBERS_BY_NAME, ROWS, WIDTH, batches

from recbench.core.config import ModelConfig
from recbench.data.rows.batch import Batch, make_batch
from recbench.data.rows.features import IdFeature, RawFeature
from recbench.data.rows.table import Table
from recbench.models import create_model
from recbench.train.optimizers import dense_optimizer, fuse_tables
from recbench.train.wrappers import TrainWrapper

EXPERT, TOWER, TASKS = [256, 128], 64, ("ctr", "cvr")


def ready_batches() -> list[Batch]:
    "The batches of `rank_step.py` with a second label."
    found = []
    for ids, numbers, labels in batches():
        table = Table(len(labels), tuple(IDS_BY_NAME), ids, {}, tuple(NUMBERS_BY_NAME),
                      (1,) * NUMBERS, numbers)
        found.append(make_batch(table))
        found[-1].labels |= {"ctr": labels, "cvr": labels * (numbers[:, 0] < 0.3)}
    return found


def mmoe_step(experts: int) -> Callable[[], None]:
    "A call that trains the model on the next batch."
    towers = [{"tower_name": name, "label_name": name, "mlp": {"hidden_units": [TOWER]},
               "losses": [{"binary_cross_entropy": {}}]} for name in TASKS]
    groups = [{"group_name": "all", "feature_names": [*IDS_BY_NAME, *NUMBERS_BY_NAME]}]
    mmoe = {"task_towers": towers, "expert_mlp": {"hidden_units": EXPERT}, "num_expert": experts}
    config = ModelConfig.from_dict({"feature_groups": groups, "mmoe": mmoe})
    features = [
        *(IdFeature(name=name, num_buckets=ROWS, embedding_dim=WIDTH) for name in IDS_BY_NAME),
        *(RawFeature(name=name) for name in NUMBERS_BY_NAME),
    ]
    torch.manual_seed(0)
    model = create_model(config, features, [*TASKS])
    wrapper = TrainWrapper(model)
    fuse_tables(model, "rowwise_adagrad", 0.02)
    optimizer, ready = dense_optimizer(model, 1e-3), cycle(ready_batches())

    def step() -> None:
        optimizer.zero_grad()
        wrapper(next(ready))[0].backward()
        optimizer.step()

    return step


def products(experts: int) -> Callable[[], None]:
    "A call that computes the matrix products of the linear layers of a step."
    wide = IDS * WIDTH + NUMBERS
    layers = [(wide, EXPERT[0]), tuple(EXPERT)] * experts
    layers += [(wide, experts), (EXPERT[-1], TOWER), (TOWER, 1)] * len(TASKS)
    return matrix_products([(BATCH, inner, outer) for inner, outer in layers])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2)
    asked = parser.parse_args()
    calls = {"recbench": mmoe_step(asked.experts), "products": products(asked.experts)}
    took = interleaved({name: lambda call=call: [call() for _ in range(asked.steps)]
                        for name, call in calls.items()}, asked.rounds)
    for name, seconds in took.items():
        rate = BATCH * asked.steps / median(seconds)
        print(f"{name:9s} {rate:>9,.0f} samples a CPU second")
    verdict("MMoE step, recbench over products", ratio(took, "products", "recbench"), at_least=0.6)


if __name__ == "__main__":
    main()
