"""Synthetic data sets and models of a given size for the benchmarks."""
import numpy as np
import pandas as pd
import torch

from recbench.core.config import (
    DSSMConfig,
    FeatureGroup,
    Loss,
    MLPConfig,
    ModelConfig,
    SoftmaxCrossEntropyConfig,
    Tower,
)
from recbench.data.rows.features import IdFeature, Schema
from recbench.data.sets.dataset import Dataset, build_dataset
from recbench.models.dssm import DSSM

WIDTH, HIDDEN, OUTPUT, TEMPERATURE = 16, [256, 128], 64, 0.05


def make_dataset(fields: int, buckets: int, users: int, items: int, events: int) -> Dataset:
    """`fields` random ids on each side, uniform over `buckets` rows a table, and uniform events.

    No history.
    """
    rng = np.random.default_rng(0)
    sides = {
        side: [
            IdFeature(name=f"{side}_{i}", side=side, embedding_dim=WIDTH, num_buckets=buckets)
            for i in range(fields)
        ]
        for side in ("user", "item")
    }
    frames = {
        side: pd.DataFrame(
            {
                f"{side}_id": np.arange(rows),
                **{feature.name: rng.integers(buckets, size=rows) for feature in sides[side]},
            }
        )
        for side, rows in (("user", users), ("item", items))
    }
    train = pd.DataFrame(
        {
            "user_id": rng.integers(users, size=events),
            "item_id": rng.integers(items, size=events),
            "timestamp": np.arange(events),
        }
    )
    schema = Schema(features=(*sides["user"], *sides["item"]))
    return build_dataset(
        "uniform",
        schema,
        train,
        train[:1],
        train[:1],
        frames["user"],
        frames["item"],
        protocol="none",
        max_history=0,
    )


def make_model(dataset: Dataset, in_batch: bool = True) -> DSSM:
    """DSSM with towers 256-128-64.

    Hidden layers 256 and 128, output 64; cosine, in-batch negatives or sampled ones.
    """
    tower = {side: Tower(input=side, mlp=MLPConfig(hidden_units=HIDDEN)) for side in ("user", "item")}
    config = ModelConfig(
        feature_groups=[
            FeatureGroup(
                group_name=side, feature_names=[feature.name for feature in dataset.features(side)]
            )
            for side in ("user", "item")
        ],
        dssm=DSSMConfig(
            user_tower=tower["user"],
            item_tower=tower["item"],
            output_dim=OUTPUT,
            similarity="COSINE",
            temperature=TEMPERATURE,
            in_batch_negative=in_batch,
        ),
        losses=[Loss(softmax_cross_entropy=SoftmaxCrossEntropyConfig())],
    )
    torch.manual_seed(0)
    return DSSM(config, dataset.features(), ["label"])
