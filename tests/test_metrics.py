"Metrics against plain loops and scikit-learn, on one process and on two."
import warnings
from itertools import combinations, permutations
from math import isnan, log2

import pytest
import torch
import warm
from sklearn.metrics import log_loss, roc_auc_score
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import BinaryAUROC

pytest.importorskip("hypothesis", reason="hypothesis is not installed: no drawn rows")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from recbench import metrics  # noqa: E402
from recbench.metrics.auc import error_bound  # noqa: E402

drawn = settings(max_examples=60, deadline=None, derandomize=True)   # the same ones every run

scores = st.one_of(
    st.integers(-3, 3).map(lambda n: n / 4), st.floats(width=32, allow_nan=False)
)  # ties, and every kind of float
probabilities = st.one_of(st.integers(0, 4).map(lambda n: n / 4), st.floats(0, 1, width=32))
keys = st.one_of(st.integers(-2, 2), st.sampled_from([-2**63, 2**63 - 1, 2**40]))
labels = st.one_of(st.integers(-2, 3), st.floats(width=32, allow_nan=False, allow_infinity=False))


def rows(*columns: st.SearchStrategy, least: int = 0, most: int = 40) -> st.SearchStrategy:
    "Lists of rows, as one list a column."
    return st.lists(st.tuples(*columns), min_size=least, max_size=most).map(
        lambda table: [list(column) for column in zip(*table)] or [[] for _ in columns]
    )


def value(
    metric: Metric,
    *columns: list,
    kinds: tuple = (torch.float32, torch.int64, torch.int64),
    split: int | None = None,
) -> float:
    "Value after one update, or two."
    tensors = [torch.tensor(column, dtype=kind) for column, kind in zip(columns, kinds)]
    for part in ([slice(None)] if split is None else [slice(split), slice(split, None)]):
        metric.update(*(tensor[part] for tensor in tensors))
    return float(metric.compute())


def close(actual: float, expected: float, gap: float = 1e-6) -> bool:
    return isnan(actual) if isnan(expected) else abs(actual - expected) <= gap


def auc(preds: list[float], target: list[int]) -> float:
    "Chance that a positive beats a negative, by looking at each pair."
    pairs = [(p, n) for p, y in zip(preds, target) if y for n, z in zip(preds, target) if not z]
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs) if pairs else float("nan")


def xauc(preds: list[float], target: list[float], ties: str) -> float:
    "Share of pairs in the right order, by looking at each pair."
    pairs = [
        (a - b if a != b else 0, y - z)
        for (a, y), (b, z) in combinations(list(zip(preds, target)), 2)
        if ties == "wrong" or y != z
    ]
    return (
        sum((s > 0) == (y > 0) and s != 0 != y or (ties == "half" and s == 0) / 2 for s, y in pairs)
        / len(pairs)
        if pairs
        else float("nan")
    )


def within(preds: list, target: list, key: list) -> dict[int, tuple[list, list]]:
    "The rows of each group."
    return {
        one: tuple(zip(*[(p, y) for p, y, k in zip(preds, target, key) if k == one]))
        for one in set(key)
    }


def mean(values: list[tuple[float, float]]) -> float:
    "Weighted mean of the values that are numbers."
    kept = [(v, w) for v, w in values if not isnan(v)]
    return sum(v * w for v, w in kept) / sum(w for _, w in kept) if kept else float("nan")


@drawn
@given(rows(scores, st.integers(0, 1)), st.integers(0, 40))
def test_exact_auc(table, split):
    expected = auc(*table)
    assert close(value(metrics.ExactAUC(), *table, split=split), expected)
    if not isnan(expected) and all(abs(p) < 1e30 for p in table[0]):
        assert close(roc_auc_score(table[1], table[0]), expected)


@drawn
@given(
    rows(probabilities, st.integers(0, 1), least=1), st.integers(0, 40), st.sampled_from([0, 2, 5, 200])
)
def test_auc_from_bins(table, split, thresholds):
    metric, expected = metrics.AUC(thresholds), auc(*table)
    got = value(metric, *table, split=split)
    if isnan(expected): assert isnan(got)
    elif thresholds:
        there = BinaryAUROC(thresholds=thresholds)
        there.update(torch.tensor(table[0]), torch.tensor(table[1]))
        assert close(got, float(there.compute()))
    else: assert close(got, expected, float(error_bound(metric.counts)) + 1e-6)


@drawn
@given(rows(scores, st.integers(0, 1), keys), st.integers(0, 40))
def test_grouped_auc(table, split):
    values = [(auc(*group), len(group[0])) for group in within(*table).values()]
    assert close(value(metrics.GroupedAUC(), *table, split=split), mean([(v, 1) for v, _ in values]))
    assert close(value(metrics.GroupedAUC("rows"), *table, split=split), mean(values))


@drawn
@given(rows(scores, labels, most=25), st.integers(0, 25), st.sampled_from(["half", "wrong"]))
def test_xauc(table, split, ties):
    kinds, expected = (torch.float32, torch.float64), xauc(*table, ties)
    assert close(value(metrics.XAUC(ties=ties), *table, kinds=kinds, split=split), expected)
    assert close(
        value(metrics.XAUC(ties=ties, sample_ratio=1e-3), *table, kinds=kinds, split=split), expected
    )
    parts = [
        xauc(*(column[part] for column in table), ties) for part in (slice(split), slice(split, None))
    ]
    assert close(
        value(metrics.XAUC(ties=ties, in_batch=True), *table, kinds=kinds, split=split),
        mean([(v, 1) for v in parts]),
    )


@drawn
@given(rows(scores, labels, keys), st.integers(0, 40), st.sampled_from(["half", "wrong"]))
def test_grouped_xauc(table, split, ties):
    expected = mean([(xauc(*group, ties), len(group[0])) for group in within(*table).values()])
    assert close(
        value(
            metrics.GroupedXAUC(ties=ties),
            *table,
            kinds=(torch.float32, torch.float64, torch.int64),
            split=split,
        ),
        expected,
    )


@drawn
@given(rows(st.floats(1e-6, 1 - 1e-6), st.integers(0, 1), least=1), st.integers(0, 40))
def test_probabilities(table, split):
    preds, target = table
    kinds, share = (torch.float64, torch.int64), sum(target) / len(target)
    if 0 < share < 1:
        base = log_loss(target, [share] * len(target))
        assert close(
            value(metrics.NormalizedEntropy(), *table, kinds=kinds, split=split),
            log_loss(target, preds) / base,
            1e-5,
        )
        assert close(
            value(metrics.PredictedOverSeen(), *table, kinds=kinds, split=split),
            sum(preds) / sum(target),
            1e-5 * len(preds),
        )
    assert close(
        value(metrics.CalibrationError(bins=1), *table, kinds=kinds, split=split),
        abs(sum(preds) / len(preds) - share),
    )


def ranked(line: list[float], wanted: list[bool], k: int) -> list[float]:
    "NDCG, MRR, hit rate and recall of a row, averaged over all orders that its scores allow."
    orders = [
        order
        for order in permutations(range(len(line)))
        if all(line[a] >= line[b] for a, b in zip(order, order[1:]))
    ]
    ideal, totals = sum(1 / log2(2 + place) for place in range(min(sum(wanted), k))), [0.0] * 4
    for order in orders:
        at = [place for place, item in enumerate(order[:k]) if wanted[item]]
        found = (
            sum(1 / log2(2 + place) for place in at) / ideal,
            1 / (1 + at[0]) if at else 0.0,
            float(bool(at)),
            len(at),
        )
        totals = [total + one / len(orders) for total, one in zip(totals, found)]
    return totals


@drawn
@given(
    st.lists(
        st.tuples(
            st.lists(
                st.one_of(st.integers(0, 2), st.sampled_from([float("-inf"), float("inf")])),
                min_size=5,
                max_size=5,
            ),
            st.lists(st.booleans(), min_size=5, max_size=5),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 7),
)
def test_ranking(table, k):
    preds, target = torch.tensor([line for line, _ in table], dtype=torch.float32), torch.tensor(
        [wanted for _, wanted in table]
    )
    judged = [ranked(line, wanted, k) for line, wanted in table if any(wanted)]
    for i, kind in enumerate((metrics.NDCGAtK, metrics.MRRAtK, metrics.HitRateAtK, metrics.RecallAtK)):
        metric = kind(k)
        metric.update(preds, target)
        number = target.sum().item() if kind is metrics.RecallAtK else len(judged)
        assert close(
            float(metric.compute()), sum(row[i] for row in judged) / number if number else float("nan")
        )


# ---- two processes ----

def world() -> tuple[dict, list[dict]]:
    """Every metric with the columns it reads, and five batches of different sizes.

    Groups are spread over all of them.
    """
    kinds = {
        "recall": (metrics.RecallAtK(3), ("wide", "positives")),
        "ndcg": (metrics.NDCGAtK(3), ("wide", "positives")),
        "mrr": (metrics.MRRAtK(3), ("wide", "positives")),
        "hit rate": (metrics.HitRateAtK(3), ("wide", "positives")),
        "auc": (metrics.AUC(), ("probs", "click")),
        "auc 200": (metrics.AUC(200), ("probs", "click")),
        "exact auc": (metrics.ExactAUC(), ("probs", "click")),
        "classes": (metrics.MulticlassAUC(3), ("classes", "label")),
        "classes, weighted": (metrics.MulticlassAUC(3, 200, "weighted"), ("classes", "label")),
        "grouped auc": (metrics.GroupedAUC(), ("probs", "click", "key")),
        "grouped auc, rows": (metrics.GroupedAUC("rows"), ("probs", "click", "key")),
        "xauc": (metrics.XAUC(), ("probs", "seconds")),
        "xauc, drawn": (metrics.XAUC(max_pairs=5000), ("probs", "seconds")),
        "xauc in batch": (metrics.XAUC(in_batch=True), ("probs", "seconds")),
        "grouped xauc": (metrics.GroupedXAUC(None), ("probs", "seconds", "key")),
        "grouped xauc, drawn": (metrics.GroupedXAUC(100), ("probs", "seconds", "key")),
        "entropy": (metrics.NormalizedEntropy(), ("probs", "click")),
        "calibration": (metrics.CalibrationError(5), ("probs", "click")),
        "ratio": (metrics.PredictedOverSeen(), ("probs", "click")),
        "unique": (metrics.UniqueRatio(), ("codes",)),
        "relative": (metrics.RelativeL1(), ("probs", "seconds")),
    }
    draw, batches = torch.Generator().manual_seed(0), []
    for n in (3000, 17, 1, 2400, 160):
        rand = lambda *shape: torch.rand(*shape, generator=draw)   # noqa: B023
        batches.append(
            {
                "wide": rand(n, 8).mul(5).floor(),
                "positives": rand(n, 8) < 0.2,
                "probs": rand(n),
                "click": (rand(n) < 0.3).long(),
                "classes": rand(n, 3).softmax(1),
                "label": rand(n).mul(3).long(),
                "key": rand(n).mul(40).long() - 7,
                "seconds": rand(n).mul(20).floor(),
                "codes": rand(n, 2).mul(30).long(),
            }
        )
    return kinds, batches


def fed(metric: Metric, columns: tuple[str, ...], batches: list[dict]) -> Metric:
    for batch in batches: metric.update(*(batch[name] for name in columns))
    return metric


def check_process(rank: int, folder: str) -> None:
    "One of two processes: values over both must be those of one process that has seen everything."
    warnings.filterwarnings("ignore", message=".*compute.*method of metric.*")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    kinds, batches = world()
    for name, (metric, columns) in kinds.items():
        alone = fed(metric.clone(), columns, batches)
        alone.sync_on_compute = False
        for share in (
            (batches[0::2], batches[1::2]),
            (batches, []),
        ):  # the second process may have nothing at all
            mine = fed(metric.clone(), columns, share[rank])
            together, again = mine.compute(), fed(mine, columns, batches[:1]).compute()
            # draws look at other pairs when the rows come in another order
            gap = 0.04 if "drawn" in name else 1e-6
            assert abs(together - alone.compute()) <= gap * max(
                1, abs(alone.compute())
            ), f"{name}: {together} on two processes, {alone.compute()} on one"
            assert not again.isnan(), name
            mine.reset()
            fed(mine, columns, share[rank])
            assert mine.compute() == together, name
    check_train_metrics(rank, batches)
    torch.distributed.destroy_process_group()


def check_train_metrics(rank: int, batches: list[dict]) -> None:
    "Windows closed by two processes at the same step, against one process with the rows of both."
    for metric, columns in (
        (metrics.RecallAtK(3), ("wide", "positives")),
        (metrics.DecayAUC(), ("probs", "click")),
        (metrics.GroupedAUC(), ("probs", "click", "key")),
        (metrics.XAUC(), ("probs", "seconds")),
    ):
        mine, alone = metrics.TrainMetricWrapper(metric.clone(), 0.5, 1), metrics.TrainMetricWrapper(
            metric.clone(), 0.5, 2
        )
        alone.metric.sync_on_compute = False
        for left, right in zip(batches[0:4:2], batches[1:4:2]):
            fed(mine, columns, [(left, right)[rank]])
            fed(alone, columns, [left, right])
        assert abs(mine.compute() - alone.compute()) < 1e-6 and mine.compute() != 0, type(
            metric
        ).__name__


def test_two_processes(tmp_path):
    warm.context()
    torch.multiprocessing.start_processes(
        check_process, args=(str(tmp_path),), nprocs=2, start_method="forkserver"
    )


# ---- in training ----

@pytest.mark.parametrize("name", world()[0])
def test_train_metric_wrapper(name):
    "Any update arguments; saved and loaded in the middle of a window, nothing is lost."
    (metric, columns), batches = world()[0][name], world()[1]
    straight, before, after = (metrics.TrainMetricWrapper(metric.clone(), 0.5, 2) for _ in range(3))
    fed(straight, columns, batches[:4])
    fed(before, columns, batches[:3])
    after.load_state_dict(before.state_dict())
    fed(after, columns, batches[3:4])
    windows = [
        float(fed(metric.clone(), columns, part).compute()) for part in (batches[:2], batches[2:4])
    ]
    assert after.compute() == straight.compute() and close(
        float(straight.compute()), sum(windows) / 2, 1e-5 * max(1, *windows)
    )


def test_a_window_without_a_value_changes_nothing():
    metric = metrics.TrainMetricWrapper(metrics.GroupedAUC(), 0.5, 1)
    for target in ([1, 0], [1, 1], [0, 1]):
        metric.update(torch.tensor([.9, .1]), torch.tensor(target), grouping_key=torch.tensor([7, 7]))
    assert metric.compute() == 0.5
    errors = metrics.TrainMetricWrapper(MeanAbsoluteError(), 0.5, 1)
    for error in (0.0, 1.0): errors.update(torch.tensor([error]), torch.tensor([0.0]))
    assert errors.compute() == 0.5


# ---- what is a logit, what a probability ----

@pytest.mark.parametrize("rows", [2000, 16, 4, 1])
def test_auc_of_logits_does_not_depend_on_batches(rows):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, generator=generator) * 0.5 + 0.3
    label = (torch.rand(2000, generator=generator) < logits.sigmoid()).long()
    metric, cuts = metrics.AUC(), metrics.AUC(200, logits=True)
    for part, target in zip(logits.split(rows), label.split(rows)):
        metric.update(part, target), cuts.update(part, target)
    assert (
        abs(float(metric.compute()) - roc_auc_score(label, logits)) < 1e-5
        and abs(float(cuts.compute()) - roc_auc_score(label, logits)) < 1e-2
    )
    two = metrics.AUC()
    for part, target in (([0.1, 0.6, -2.0, 3.0], [0, 1, 0, 1]), ([0.2, 0.9, 0.3, 0.4], [0, 0, 1, 1])):
        two.update(torch.tensor(part), torch.tensor(target))
    assert float(two.compute()) == 0.8125


@pytest.mark.parametrize(
    "metric",
    [
        metrics.AUC(200),
        metrics.DecayAUC(),
        metrics.NormalizedEntropy(),
        metrics.CalibrationError(),
        metrics.PredictedOverSeen(),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_logits_are_refused_where_probabilities_are_read(metric):
    for wrong in ([0.2, 1.7], [-0.1, 0.5]):
        with pytest.raises(ValueError, match=r"preds has the value .*; must lie in 0\.\.1"):
            metric.update(torch.tensor(wrong), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1, or say logits=True"):
        metrics.MulticlassAUC(2).update(torch.tensor([[0.2, 1.7]]), torch.tensor([1]))
    metric.update(torch.tensor([0.2, 0.7]), torch.tensor([0, 1]))
