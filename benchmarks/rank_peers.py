"""One peer's training step for `rank_step.py`, run by the Python of that peer's own environment:
`python rank_peers.py PEER MODEL`.

Reads a number of steps from each line of standard input, takes so many training steps and answers with
one line of JSON: CPU seconds, peak memory in MB, last loss. Ready batches, one thread, the peer's own
classes, Adam at 0.001.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

IDS, NUMBERS, ROWS, WIDTH, BATCH = 26, 13, 100_000, 16, 8192
HIDDEN = (256, 128, 64)
IDS_BY_NAME, NUMBERS_BY_NAME = [f"c{i}" for i in range(IDS)], [f"x{i}" for i in range(NUMBERS)]


def batches(number: int = 4) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    "Ids [B, 26], numbers [B, 13], labels [B], the same for every contender."
    make = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(ROWS, (BATCH, IDS), generator=make),
            torch.rand(BATCH, NUMBERS, generator=make),
            torch.randint(2, (BATCH,), generator=make).float(),
        )
        for _ in range(number)
    ]


def deepctr_torch(model: str):
    os.environ["NO_PROXY"] = "*"
    import deepctr_torch.utils
    deepctr_torch.utils.check_version = lambda version: None      # it asks the net for a newer version
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DCN, DeepFM
    columns = [
        *(SparseFeat(name, ROWS, WIDTH) for name in IDS_BY_NAME),
        *(DenseFeat(name, 1) for name in NUMBERS_BY_NAME),
    ]
    options = dict(dnn_hidden_units=HIDDEN, l2_reg_linear=0, l2_reg_embedding=0)
    network = (
        DeepFM(columns, columns, **options)
        if model == "DeepFM"
        else DCN(
            columns, columns, cross_num=3, cross_parameterization="matrix", l2_reg_cross=0, **options
        )
    )
    network.compile("adam", "binary_crossentropy")
    ready = [(torch.cat([ids.float(), numbers], 1), labels) for ids, numbers, labels in batches()]

    def loss(place: int) -> torch.Tensor:
        x, y = ready[place]
        return (
            network.loss_func(network(x).squeeze(-1), y, reduction="sum")
            + network.get_regularization_loss()
            + network.aux_loss
        )
    return network, network.optim, loss


def torch_rechub(model: str):
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.ranking import DCNv2, DeepFM
    sparse, dense = [SparseFeature(name, ROWS, WIDTH) for name in IDS_BY_NAME], [
        DenseFeature(name) for name in NUMBERS_BY_NAME
    ]
    mlp = {"dims": list(HIDDEN), "activation": "relu"}
    network = (
        DeepFM(sparse + dense, sparse, mlp)
        if model == "DeepFM"
        else DCNv2(sparse + dense, 3, mlp, use_low_rank_mixture=False)
    )
    ready = [
        (
            {**dict(zip(IDS_BY_NAME, ids.unbind(1))), **dict(zip(NUMBERS_BY_NAME, numbers.unbind(1)))},
            labels,
        )
        for ids, numbers, labels in batches()
    ]
    return (
        network,
        torch.optim.Adam(network.parameters(), 1e-3),
        lambda place: F.binary_cross_entropy(network(ready[place][0]), ready[place][1]),
    )


def fuxictr(model: str):
    """Its layers.

    The models of its zoo are not in the package, so the few lines that join them stand here.
    """
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import (
        CrossNetV2,
        FactorizationMachine,
        FeatureEmbedding,
        InnerProductInteraction,
        MLP_Block,
    )

    features = FeatureMap("s1", ".")
    features.default_emb_dim, features.labels = WIDTH, ["label"]
    for name in NUMBERS_BY_NAME:
        features.features[name] = {"source": "", "type": "numeric"}
    for name in IDS_BY_NAME:
        features.features[name] = {
            "source": "",
            "type": "categorical",
            "padding_idx": 0,
            "vocab_size": ROWS,
        }
    features.num_fields = features.get_num_fields()
    fields = IDS if model == "DLRM" else IDS + NUMBERS

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = FeatureEmbedding(
                features, WIDTH, required_feature_columns=IDS_BY_NAME if model == "DLRM" else None
            )
            if model == "DLRM":
                self.bottom = MLP_Block(NUMBERS, list(HIDDEN), output_dim=WIDTH)
                self.interaction = InnerProductInteraction(fields + 1, output="inner_product")
                self.top = MLP_Block((fields + 1) * fields // 2 + WIDTH, list(HIDDEN), output_dim=1)
            else:
                self.mlp = MLP_Block(
                    fields * WIDTH, list(HIDDEN), output_dim=1 if model == "DeepFM" else None
                )
                if model == "DeepFM":
                    self.fm = FactorizationMachine(features)
                else:
                    self.cross, self.output = CrossNetV2(fields * WIDTH, 3), torch.nn.Linear(
                        fields * WIDTH + HIDDEN[-1], 1
                    )

        def forward(self, x, numbers):
            embedded = self.embedding(x)  # [B, F, D]
            if model == "DLRM":
                bottom = self.bottom(numbers)
                return self.top(
                    torch.cat(
                        [self.interaction(torch.cat([embedded, bottom.unsqueeze(1)], 1)), bottom], 1
                    )
                )
            if model == "DeepFM":
                return self.fm(x, embedded) + self.mlp(embedded.flatten(1))
            return self.output(
                torch.cat([self.cross(embedded.flatten(1)), self.mlp(embedded.flatten(1))], 1)
            )

    network = Network()
    ready = [
        (
            {**dict(zip(IDS_BY_NAME, ids.unbind(1))), **dict(zip(NUMBERS_BY_NAME, numbers.unbind(1)))},
            numbers,
            labels,
        )
        for ids, numbers, labels in batches()
    ]
    return (
        network,
        torch.optim.Adam(network.parameters(), 1e-3),
        lambda place: F.binary_cross_entropy(
            network(*ready[place][:2]).squeeze(1).sigmoid(), ready[place][2]
        ),
    )


def peak() -> float:
    "MB this process has held at most."
    return (
        next(
            int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        / 1024
    )


def main() -> None:
    peer, model = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _, optimizer, loss = {
        "deepctr-torch": deepctr_torch,
        "torch-rechub": torch_rechub,
        "fuxictr": fuxictr,
    }[peer](model)
    answer(optimizer, loss)


def answer(optimizer, loss) -> None:
    "Steps on demand, until standard input ends."
    done = 0
    for line in sys.stdin:
        start = time.process_time()
        for _ in range(int(line)):
            optimizer.zero_grad()
            value = loss(done % 4)
            value.backward()
            optimizer.step()
            done += 1
        print(
            json.dumps(
                {"seconds": time.process_time() - start, "peak": peak(), "loss": float(value.detach())}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
