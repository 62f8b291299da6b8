"""Values that samplers, loaders, callbacks, schedules and intervals cannot have: refused in one
sentence with the argument's name when the object is made.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from recbench.core.config import MLPConfig
from recbench.core.documents import parse_yaml
from recbench.data import MatchLoader, Negatives, RankLoader, load_dataset
from recbench.data.columns.row_reader import RowReader, data_files
from recbench.data.columns.row_stream import RowStream
from recbench.data.feed.hard_negatives_v2 import HardNegativeSamplerV2
from recbench.data.feed.lagged_history_loader import LaggedHistoryLoader
from recbench.data.feed.negatives import HardNegativeSampler, NegativeSampler, popularity_weights
from recbench.data.feed.negatives_v2 import NegativeSamplerV2
from recbench.data.feed.sequence_loader import SequenceLoader
from recbench.data.feed.tdm_loader import TDMLoader
from recbench.data.feed.tdm_sampler import TDMSampler
from recbench.data.feed.tree import cluster_tree, load_tree
from recbench.data.published.planted import planted
from recbench.data.rows.features import with_embedding_dim
from recbench.data.rows.table import Jagged
from recbench.data.sets.encoding import load_encoding
from recbench.data.sets.own import load_folder
from recbench.data.sets.schema_file import read_schema
from recbench.evaluate import Stacked, evaluate, fit_baselines
from recbench.evaluate.baselines import refit_baselines
from recbench.evaluate.item_index import ItemIndex
from recbench.evaluate.platt import PlattScaled
from recbench.evaluate.ranking import evaluate_rows
from recbench.evaluate.retrieval import check_cut_offs, readable
from recbench.evaluate.row_baselines import fit_row_baselines
from recbench.evaluate.significance import bootstrap_interval
from recbench.export import load_exported
from recbench.interop import easyrec_report, load_tzrec_run, read_easyrec_config, read_tzrec_config
from recbench.layers.input_senet import InputSENet
from recbench.models import create_model
from recbench.models.match_configs import match_config
from recbench.train import (
    CosineAnnealing,
    ExponentialAverage,
    ExponentialDecay,
    LearningRate,
    ManualStep,
    ReduceOnPlateau,
    StopAfter,
)
from recbench.train.build import build
from recbench.train.guards import FiniteGuard
from recbench.train.runs import Recorder, Run, runs

NO_NUMBERS = [True, float("nan"), float("inf"), -1, "3", None, [1]]
WHOLE, SEED, ABOVE_0, SHARE = (
    [*NO_NUMBERS, 1.5, 0],
    [*NO_NUMBERS, 1.5],
    [*NO_NUMBERS, 0],
    [*NO_NUMBERS, 1.5],
)
DATA = planted(users=60, items=100, seed=0)
TREE = cluster_tree(torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), 2)
LISTS, EACH = Jagged(torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.tensor([2, 1])), torch.ones(
    100
)
LEVELS = [0] + [1] * (TREE.levels - 1)
MAKE = {
    "num_sample": (
        WHOLE,
        [
            lambda v: Negatives(kind="sampled", num_sample=v),
            lambda v: NegativeSampler(EACH, v),
            lambda v: NegativeSamplerV2(EACH, LISTS, v),
            lambda v: HardNegativeSamplerV2(EACH, LISTS, LISTS, v, 2),
        ],
    ),
    "num_hard": (
        WHOLE,
        [
            lambda v: Negatives(kind="hard", num_hard=v),
            lambda v: HardNegativeSampler(LISTS, v),
            lambda v: HardNegativeSamplerV2(EACH, LISTS, LISTS, 3, v),
        ],
    ),
    "memory": (SEED, [lambda v: Negatives(memory=v)]),
    "power": (NO_NUMBERS, [lambda v: Negatives(power=v), lambda v: popularity_weights(EACH, v)]),
    "weights": ([True, 1.5, -1, 0, None], [lambda v: NegativeSampler(v, 3)]),
    "batch_size": (
        WHOLE,
        [
            lambda v: MatchLoader(DATA, v),
            lambda v: RankLoader(DATA, v),
            lambda v: SequenceLoader(DATA, v),
            lambda v: LaggedHistoryLoader(DATA, v),
            lambda v: TDMLoader(DATA, TREE, LEVELS, v),
        ],
    ),
    "max_length": (WHOLE, [lambda v: SequenceLoader(DATA, 5, max_length=v)]),
    "dataset": ([True, 3, "planted", None], [lambda v: MatchLoader(v, 5)]),
    "negatives": (
        [True, 3, "full", None],
        [lambda v: MatchLoader(DATA, 5, v), lambda v: SequenceLoader(DATA, 5, v)],
    ),
    "layer_num_sample": (
        [True, 3, "3", None, [0] + [1.5] * (TREE.levels - 1), [0] + [True] * (TREE.levels - 1)],
        [lambda v: TDMSampler(TREE, v)],
    ),
    "remain_ratio": (SHARE, [lambda v: TDMSampler(TREE, LEVELS, remain_ratio=v)]),
    "seed": (
        SEED,
        [
            lambda v: NegativeSampler(EACH, 3, v),
            lambda v: HardNegativeSampler(LISTS, 2, v),
            lambda v: MatchLoader(DATA, 5, Negatives(), v),
            lambda v: TDMSampler(TREE, LEVELS, seed=v),
        ],
    ),
    "seconds": ([v for v in ABOVE_0 if v is not None], [lambda v: StopAfter(seconds=v)]),
    "steps": ([v for v in WHOLE if v is not None], [lambda v: StopAfter(steps=v)]),
    "factor": ([*ABOVE_0, 1, 1.5], [lambda v: ReduceOnPlateau(factor=v)]),
    "patience": (WHOLE, [lambda v: ReduceOnPlateau(patience=v)]),
    "decay": ([*NO_NUMBERS, 1], [lambda v: ExponentialAverage(v)]),
    "dense": ([*NO_NUMBERS, CosineAnnealing], [lambda v: LearningRate(dense=v)]),
    "tables": (NO_NUMBERS, [lambda v: LearningRate(tables=v)]),
    "every": (WHOLE, [FiniteGuard]),
    "flush_seconds": (NO_NUMBERS, [lambda v: Recorder("x", flush_seconds=v)]),
    "resume": ([0, 1, "no", None], [lambda v: Recorder("x", resume=v)]),
    "T_max": (WHOLE, [lambda v: CosineAnnealing(T_max=v)]),
    "decay_size": (WHOLE, [lambda v: ExponentialDecay(decay_size=v, decay_factor=0.5)]),
    "learning_rates": (
        [[True], ["0.1"], [None], 0.1],
        [lambda v: ManualStep(schedule_sizes=[1], learning_rates=v)],
    ),
    "hidden_units": ([[True], ["8"], 8, [1.5]], [lambda v: MLPConfig(hidden_units=v)]),
    "confidence": ([*NO_NUMBERS, 0, 1], [lambda v: bootstrap_interval(np.arange(30.0), v)]),
    "draws": (WHOLE, [lambda v: bootstrap_interval(np.arange(30.0), draws=v)]),
}
CASES = [
    (name, make, value)
    for name, (values, makers) in MAKE.items()
    for make in makers
    for value in values
]


@pytest.mark.parametrize(
    "name, make, value",
    CASES,
    ids=lambda part: part if isinstance(part, str) and part.isidentifier() else "",
)
def test_refused_by_name(name, make, value):
    with pytest.raises(ValueError, match=name) as refused: make(value)
    assert len(str(refused.value)) < 600


def test_there_are_enough_of_them(): assert len(CASES) > 250


def test_intervals_of_users_who_are_all_alike_leave_room():
    zero, some, one = (np.array(bootstrap_interval(np.full(20, value))) for value in (0.0, 0.3, 1.0))
    room = 1.959964**2 / (20 + 1.959964**2)  # Wilson's upper end of no hit among 20
    np.testing.assert_allclose(
        [zero, some, one],
        [[0, 0, room], [0.3, 0.3 - 0.3 * room, 0.3 + 0.7 * room], [1, 1 - room, 1]],
        atol=1e-6,
    )
    for wrong in (np.array([1, np.inf]), np.float64(3)):
        with pytest.raises(ValueError, match="^values "): bootstrap_interval(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int x",
        "a: !!float x",
        "a: !!bool x",
        "a: !!timestamp x",
        "a: 2020-01-32",
        "a: " + "9" * 6000,
    ],
)
def test_a_yaml_value_that_its_type_cannot_read(text):
    with pytest.raises(ValueError, match="^shop.yaml ") as refused: parse_yaml(text, "shop.yaml")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("kind", ["exact", "flat", "ivf", "hnsw"])
def test_an_index_reads_users_of_any_number_type(kind):
    items = torch.eye(6)
    for users in (items[[4, 2]].long(), items[[4, 2]].double(), items[[4, 2]]):
        assert ItemIndex(items, kind).search(users, 1)[0].tolist() == [[4], [2]]
    with pytest.raises(ValueError, match="^item_emb is torch.int64"): ItemIndex(items.long(), kind)


FEATURES = with_embedding_dim(DATA.features(), 8)
CONFIG = match_config("DSSM", DATA, FEATURES, hidden_units=[8])
CLICKS = load_dataset("planted", task="rank", users=60, items=100, seed=0)


class Guess:
    "Probabilities that are what a function makes of the number of rows; counts its calls."

    def __init__(self, guess): self.guess, self.label, self.calls = guess, CLICKS.schema.label, []

    def predict_rows(self, dataset, split):
        self.calls.append(split)
        return self.guess(len(dataset.split(split)))


@pytest.mark.parametrize("value", [None, 3])
@pytest.mark.parametrize("read", [
    load_tzrec_run, read_tzrec_config, read_easyrec_config, easyrec_report, Run.load, runs, load_folder,
    read_schema, load_encoding, load_tree, load_exported, load_dataset, data_files,
], ids=lambda read: read.__qualname__)
def test_what_is_no_path_is_refused_by_name(read, value):
    with pytest.raises(ValueError, match=rf"^\w+ is {value}; must be a path"): read(value)


@pytest.mark.parametrize("name, call", [
    ("dataset", lambda: evaluate(None, None)), ("dataset", lambda: evaluate_rows(None, None)),
    ("dataset", lambda: PlattScaled(Guess(np.zeros), None)), ("dataset", lambda: fit_baselines(None)),
    ("dataset", lambda: fit_row_baselines(None)), ("dataset", lambda: refit_baselines({}, None)),
    ("baselines", lambda: refit_baselines(None, DATA)), ("dataset", lambda: match_config("DSSM", None)),
    ("reader", lambda: RowStream(None, "rows.parquet")), ("pipeline", lambda: RowReader(None)),
    ("item_emb", lambda: ItemIndex(None)),
    ("pipeline", lambda: build(None)),
    ("model_config", lambda: create_model(None, FEATURES, ["label"])),
])
def test_a_thing_of_another_class_is_refused_by_name(name, call):
    with pytest.raises(ValueError, match=f"^{name} is None; must be a "): call()


def test_misspelt_keywords_and_widths():
    for call, words in (
        (lambda: create_model(CONFIG, FEATURES, label=["label"]), "no argument 'label'.* 'labels'"),
        (lambda: fit_baselines(DATA, ial=True), "no argument 'ial'; did you mean 'ials'"),
        (lambda: fit_baselines(DATA, esae=True), "no argument 'esae'; known: dataset, max_ease_items"),
    ):
        with pytest.raises(TypeError, match=words): call()
    layer = InputSENet([4, 4])
    for part in (layer, layer.factors):
        for x in (torch.zeros(2, 9), torch.zeros(8)):
            with pytest.raises(ValueError, match=r"^x is \[.*must be \[B, 8\]"): part(x)


def test_scores_without_numbers_are_refused_with_split_and_rows():
    model = create_model(CONFIG, FEATURES, ["label"])
    with torch.no_grad():
        for weights in model.parameters(): weights.fill_(torch.nan)
    for split in ("valid", "test"):
        with pytest.raises(ValueError, match=rf"NaN for every item in \d+ of \d+ lists of {split}"):
            evaluate(model, DATA, [5], split)
    def spoilt(rows): return np.where(np.arange(rows) == 7, np.inf, .5)
    rows = len(CLICKS.test)
    with pytest.raises(ValueError, match=f"not finite in 1 of {rows:,} rows of test, first in row 7"):
        evaluate_rows(Guess(spoilt), CLICKS)


def test_a_table_of_numbers_is_not_readable():
    with pytest.raises(ValueError, match="^frame has the columns auc, without values"):
        readable(pd.DataFrame({"auc": [0.9]}))


def test_a_cut_off_above_the_catalogue_is_told():
    with pytest.warns(UserWarning, match="top_k holds 500; a list holds at most the 100 items"):
        check_cut_offs([5, 500], 100)


def test_stacked_predicts_each_member_once():
    draw = np.random.default_rng(0).random
    members = {name: Guess(draw) for name in ("first", "second", "third")}
    both = Stacked(members, CLICKS)
    assert [one.calls for one in members.values()] == [["valid"]] * 3
    both.predict_rows(CLICKS, "test")
    assert [one.calls for one in members.values()] == [["valid", "test"]] * 3
