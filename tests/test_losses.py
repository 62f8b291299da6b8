"""Losses of single rows, of tasks and of several losses together: hypothesis draws batches, labels and
weights, the same ones every run.
"""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("hypothesis", reason="hypothesis is not installed: no drawn batches")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from recbench.losses.f1 import F1ReweightedLoss, negative_weight  # noqa: E402
from recbench.losses.focal import BinaryFocalLoss  # noqa: E402
from recbench.losses.loss_set import LossSet, loss_names  # noqa: E402
from recbench.losses.loss_weighting import RandomWeighting, UncertaintyWeighting  # noqa: E402
from recbench.losses.multi_task import ESMMLoss, OrderCalibrateLoss, joint_logit  # noqa: E402
from recbench.losses.pareto import ParetoEfficientMultiTaskLoss, pareto_weights  # noqa: E402
from recbench.losses.pointwise import BinaryCrossEntropy, L2Loss, LogLoss, SigmoidL2Loss  # noqa: E402
from recbench.losses.sample_weights import hardest_mean, weighted_mean  # noqa: E402
from recbench.losses.softmax import SoftmaxCrossEntropy  # noqa: E402
from recbench.losses.ziln import ZILNLoss  # noqa: E402


class OnLogits(torch.nn.Module):
    "A loss of probabilities, for the checks that give logits."

    def __init__(self, **options):
        super().__init__()
        self.loss = LogLoss(**options)

    def forward(self, logits, labels, **given):
        return self.loss(
            logits.float().sigmoid() if logits.dtype != torch.float64 else logits.sigmoid(),
            labels,
            **given,
        )


class ESMM(torch.nn.Module):
    "Two columns of logits, and labels 0 to 3 for click + 2 conversion."

    def __init__(self, **options):
        super().__init__()
        self.loss = ESMMLoss(**options)

    def forward(self, logits, labels, **given):
        return self.loss(logits[:, 0], logits[:, 1], labels % 2, labels // 2, **given)


class Order(torch.nn.Module):
    "The first of three columns ordered below the others."

    def forward(self, logits, labels, **given):
        prob, *parents = logits.sigmoid().unbind(1)
        return OrderCalibrateLoss()(prob, parents, **given)


FORMS = [  # class, options, columns, number of labels
    (BinaryCrossEntropy, {}, (), 2),
    (BinaryCrossEntropy, dict(label_smoothing=0.2), (), 2),
    (L2Loss, {}, (), 6),
    (SigmoidL2Loss, {}, (), 2),
    (OnLogits, {}, (), 2),
    (BinaryFocalLoss, {}, (), 2),
    (BinaryFocalLoss, dict(gamma=0.5, alpha=0.3, label_smoothing=0.1), (), 2),
    (BinaryFocalLoss, dict(alpha=0.75, detach_weight=True), (), 2),
    (BinaryFocalLoss, dict(ohem_ratio=0.4), (), 2),
    (F1ReweightedLoss, {}, (), 2),
    (F1ReweightedLoss, dict(beta_square=0.3, label_smoothing=0.1), (), 2),
    (ZILNLoss, {}, (3,), 4),
    (ZILNLoss, dict(classification_weight=0.3, regression_weight=2.0), (3,), 4),
    (SoftmaxCrossEntropy, dict(label_smoothing=0.1), (4,), 4),
    (ESMM, dict(ctr_weight=0.5, cvr_weight=2.0), (2,), 4),
    (Order, {}, (3,), 2),
]
NAMES = [f"{kind.__name__}-{'-'.join(options) or 'defaults'}" for kind, options, _, _ in FORMS]
each_form = pytest.mark.parametrize("kind, options, columns, grades", FORMS, ids=NAMES)
drawn = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def both(loss, logits, *args, **given) -> tuple[torch.Tensor, torch.Tensor]:
    "Value and gradient."
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, *args, **given)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def draw_batch(data, columns, grades) -> tuple[torch.Tensor, ...]:
    "Logits, labels and weights of 0 to 12 rows."
    rows, seed = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.tensor(
        data.draw(st.sampled_from([[1.0], [0.0, 1.0, 2.5], [0.3, 4.0], [0.0]])), dtype=torch.float64
    )
    labels = torch.randint(0, data.draw(st.sampled_from([1, grades])), (rows,), generator=generator)
    return (
        2 * torch.randn(rows, *columns, generator=generator, dtype=torch.float64),
        labels,
        weight[torch.randint(0, len(weight), (rows,), generator=generator)],
    )


@each_form
@drawn
@given(data=st.data())
def test_order_of_rows_does_not_matter(kind, options, columns, grades, data):
    logits, labels, weight = draw_batch(data, columns, grades)
    value, gradient = both(kind(**options), logits, labels, sample_weight=weight)
    assert (
        value >= -1e-6 and value.isfinite() and gradient.isfinite().all()
    )  # log loss: -log(1 + eps) at best
    shuffled = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    again, moved = both(
        kind(**options), logits[shuffled], labels[shuffled], sample_weight=weight[shuffled]
    )
    assert_close(again, value)
    assert_close(moved, gradient[shuffled])


@each_form
@drawn
@given(data=st.data())
def test_weights(kind, options, columns, grades, data):
    logits, labels, weight = draw_batch(data, columns, grades)
    value, gradient = both(kind(**options), logits, labels, sample_weight=weight)
    assert_close(both(kind(**options), logits, labels, sample_weight=3 * weight)[0], 3 * value)
    assert_close(
        both(kind(**options), logits, labels, sample_weight=torch.ones_like(weight))[0],
        both(kind(**options), logits, labels)[0],
    )
    assert gradient[weight == 0].eq(0).all()
    if "ohem_ratio" in options:
        return  # there a row of weight 0 still counts among those the share is taken of
    there = weight != 0
    kept, slopes = both(kind(**options), logits[there], labels[there], sample_weight=weight[there])
    assert_close(kept, value)
    assert_close(slopes, gradient[there])


@each_form
def test_gradient_by_differences(kind, options, columns, grades):
    torch.manual_seed(0)
    logits, weight = torch.randn(7, *columns, dtype=torch.float64, requires_grad=True), torch.tensor(
        [1.0, 0, 2, 1, 0.5, 3, 1], dtype=torch.float64
    )
    if "detach_weight" in options or kind is F1ReweightedLoss:
        pytest.skip("a weight is held fixed on purpose")
    assert gradcheck(
        lambda z: kind(**options)(z, torch.arange(7) % grades, sample_weight=weight), logits
    )


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_on_degenerate_batches(kind, options, columns, grades, dtype):
    sizes = (
        (0.0, 1.0) if kind is ZILNLoss and dtype == torch.float16 else (0.0, 1.0, 1e4)
    )  # a deviation at its floor has gradients that float16 cannot hold
    for rows in (0, 1, 6):
        for labels in (
            torch.arange(rows) % grades,
            torch.zeros(rows, dtype=torch.int64),
            torch.full((rows,), grades - 1),
        ):
            for weight in (None, torch.zeros(rows), torch.ones(rows, dtype=dtype)):
                for size in sizes:
                    logits = (
                        size
                        * torch.linspace(-1, 1, rows)[(...,) + (None,) * len(columns)].expand(
                            rows, *columns
                        )
                    ).to(dtype)
                    value, gradient = both(kind(**options), logits, labels, sample_weight=weight)
                    assert value.isfinite() and gradient.isfinite().all() and gradient.dtype == dtype
                    if not rows or weight is not None and not weight.any():
                        assert value == 0 and gradient.eq(0).all()


@pytest.mark.parametrize(
    "kind, label",
    [(BinaryCrossEntropy, 1), (BinaryCrossEntropy, 0), (BinaryFocalLoss, 1), (BinaryFocalLoss, 0)],
)
def test_a_row_that_is_certain_and_wrong_is_pulled(kind, label):
    for size in (20.0, 300.0, 1e4):
        logits = torch.tensor([-size if label else size])
        value, gradient = both(kind(), logits, torch.tensor([label]))
        assert abs(value / size - 1) < 1e-5 and abs(gradient.abs() - 1) < 1e-5


class Waiting(TorchDispatchMode):
    "Refuses what makes the host wait for a device."

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "item",
        ), function
        return function(*args, **kwargs or {})


@each_form
def test_nothing_waits_for_the_device(kind, options, columns, grades):
    loss, logits = kind(**options), torch.randn(8, *columns, requires_grad=True)
    with Waiting(): loss(logits, torch.arange(8) % grades, sample_weight=torch.arange(8.0)).backward()


@drawn
@given(data=st.data())
def test_reductions(data):
    logits, labels, weight = draw_batch(data, (), 2)
    plain, slopes = both(BinaryCrossEntropy(), logits, labels, sample_weight=weight)
    for loss, scale in [
        (BinaryFocalLoss(gamma=0.0), 1),
        (BinaryFocalLoss(gamma=0.0, alpha=0.5), 0.5),
        (BinaryFocalLoss(gamma=0.0, detach_weight=True), 1),
    ]:
        value, gradient = both(loss, logits, labels, sample_weight=weight)
        assert_close(value, scale * plain)
        assert_close(gradient, scale * slopes)
    assert_close(OnLogits(eps=1e-15)(logits, labels, sample_weight=weight), plain)
    assert_close(
        SoftmaxCrossEntropy()(torch.stack([0 * logits, logits], 1), labels, sample_weight=weight), plain
    )
    amounts = ZILNLoss(regression_weight=0.0, mu_regularization=0.0, sigma_regularization=0.0)
    assert_close(
        amounts(torch.stack([logits, logits, -logits], 1), labels, sample_weight=weight), plain
    )
    assert_close(
        ESMMLoss(ctr_weight=0.0)(
            torch.full_like(logits, 1e4), logits, torch.ones_like(labels), labels, sample_weight=weight
        ),
        plain,
    )
    assert_close(
        BinaryFocalLoss(gamma=1.5, alpha=0.3)(logits, labels, sample_weight=weight),
        BinaryFocalLoss(gamma=1.5, alpha=0.7)(-logits, 1 - labels, sample_weight=weight),
    )
    gammas = [
        BinaryFocalLoss(gamma=gamma)(logits, labels, sample_weight=weight)
        for gamma in (0.0, 0.5, 2.0, 5.0)
    ]
    assert all(less <= more for more, less in zip(gammas, gammas[1:]))
    assert_close(
        SigmoidL2Loss()(logits, labels, sample_weight=weight),
        L2Loss()(logits.sigmoid(), labels, sample_weight=weight),
    )


@drawn
@given(data=st.data(), beta_square=st.sampled_from([0.25, 1.0, 4.0]))
def test_weight_of_negatives(data, beta_square):
    logits, labels, weight = draw_batch(data, (), 2)
    omega = negative_weight(logits, labels, beta_square, weight)
    assert 0 <= omega <= 1 / beta_square + 1e-12 and (omega > 0 or not (labels * weight).any())
    right = negative_weight(200.0 * (2 * labels - 1), labels, beta_square)
    assert_close(right, torch.tensor(1 / beta_square if labels.any() else 0.0))


def test_focal_counts_rows_and_not_factors():
    easy = torch.tensor([20.0, 20.0, 20.0, -1.0])
    assert_close(
        BinaryFocalLoss(gamma=8)(easy, torch.ones(4)), torch.tensor(0.1071 / 4), atol=1e-4, rtol=0
    )


@drawn
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 12), ratio=st.floats(0.01, 1))
def test_hardest_mean(seed, rows, ratio):
    terms = torch.randn(rows, generator=torch.Generator().manual_seed(seed)).clamp(min=0)
    kept = sorted(terms.tolist())[::-1][:max(1, round(rows * ratio))]
    kept = [term for term in kept if term]
    assert_close(hardest_mean(terms, ratio), torch.tensor(sum(kept) / max(len(kept), 1)))


def test_means_of_half_precision():
    terms = torch.full((10_000,), 100.0, dtype=torch.float16)
    assert (
        weighted_mean(terms)
        == weighted_mean(terms, torch.ones_like(terms))
        == hardest_mean(terms, 0.5)
        == 100
    )


def test_joint_logit_is_exact():
    from fractions import Fraction
    for first in (-30.0, -1.0, 0.0, 5.0, 30.0):
        for second in (-30.0, 0.5, 30.0):
            odds = 1 / (
                Fraction(math.exp(-first))
                + Fraction(math.exp(-second))
                + Fraction(math.exp(-first - second))
            )
            assert_close(
                joint_logit(torch.tensor(first).double(), torch.tensor(second).double()),
                torch.tensor(math.log(odds), dtype=torch.float64),
                rtol=1e-12,
                atol=1e-12,
            )


def test_conversion_learns_from_the_rows_that_may_have_been_clicked():
    a, b = torch.randn(2, 9, dtype=torch.float64)
    p = a.sigmoid() * b.sigmoid()
    slopes = torch.autograd.grad(ESMMLoss()(a, b.requires_grad_(), torch.zeros(9), torch.zeros(9)), b)[
        0
    ]
    assert_close(slopes, p * (1 - b.sigmoid()) / (1 - p) / 9)


@drawn
@given(seed=st.integers(0, 10**6))
def test_order_is_free_exactly_where_it_holds(seed):
    low, high = torch.rand(2, 6, generator=torch.Generator().manual_seed(seed)).sort(0).values
    assert OrderCalibrateLoss()(low, [high]) == 0
    assert_close(OrderCalibrateLoss()(high, [low]), (high - low).mean())
    assert_close(OrderCalibrateLoss()(high, [low, high, 0 * low]), (high - low).mean() + high.mean())


# Several losses

KINDS = ("binary_cross_entropy", "sigmoid_l2_loss", "binary_cross_entropy")
PARTS = dict(zip(loss_names(KINDS), (BinaryCrossEntropy(), SigmoidL2Loss(), BinaryCrossEntropy(0.1))))


@drawn
@given(weights=st.lists(st.floats(0, 10), min_size=3, max_size=3))
def test_each_weight_reaches_its_own_loss(weights):
    logits, labels = torch.tensor([2.0, -1.0, 0.0, 3.0], dtype=torch.float64), torch.tensor(
        [1, 0, 1, 0]
    )

    several = LossSet(PARTS, dict(zip(PARTS, weights)))
    def total(z):
        return sum(several({name: loss(z, labels) for name, loss in several.losses.items()}).values())

    value, gradient = both(total, logits)
    apart = [both(loss, logits, labels) for loss in PARTS.values()]
    assert_close(value, sum(weight * part for weight, (part, _) in zip(weights, apart)))
    assert_close(gradient, sum(weight * part for weight, (_, part) in zip(weights, apart)))


@pytest.mark.parametrize("value", [0.003, 0.7, 40.0])
def test_learnt_weights_divide_by_the_size_of_the_loss(value):
    weighting = UncertaintyWeighting(["squared", "other"], regression=["squared"]).double()
    optimum = {"squared": math.log(value), "other": math.log(2 * value)}
    with torch.no_grad():
        for name, s in optimum.items(): weighting.log_variance[name].fill_(s)
    leaves = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name in optimum}
    weighted = weighting(leaves)
    for name, leaf in leaves.items():
        slope, share = torch.autograd.grad(weighted[name], [weighting.log_variance[name], leaf])
        assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
        assert_close(share, torch.tensor(1 / (2 * value)).double())
        assert_close(weighted[name], torch.tensor(0.5 + 0.5 * optimum[name]).double())


def test_learnt_weights_stay_finite_and_come_back():
    weighting = UncertaintyWeighting(["loss"])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=1.0)
    for value, steps in ((0.0, 60), (0.5, 60)):
        for _ in range(steps):
            optimizer.zero_grad()
            total = weighting({"loss": torch.tensor(value)})["loss"]
            total.backward()
            torch.nn.utils.clip_grad_norm_(weighting.parameters(), 1.0)
            optimizer.step()
            assert total.isfinite()
    assert abs(weighting.log_variance["loss"]) < 0.5


def test_random_weights_are_drawn_in_training_only():
    random, losses = RandomWeighting(), {name: torch.tensor(1.0) for name in "abcd"}
    first, second = (torch.stack([*random(losses).values()]) for _ in range(2))
    assert not first.equal(second) and abs(first.sum() - 1) < 1e-6
    assert [float(value) for value in random.eval()(losses).values()] == [0.25] * 4


@drawn
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 4),
    width=st.integers(1, 6),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
    share=st.sampled_from([0.0, 0.1]),
)
def test_pareto_weights_keep_the_bounds(seed, count, width, size, share):
    gradients = size * torch.randn(
        count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    bounds = torch.full((count,), share, dtype=torch.float64)
    weights = pareto_weights(gradients @ gradients.T, bounds)
    assert_close(weights.sum(), torch.ones((), dtype=torch.float64))
    assert (weights >= bounds - 1e-12).all()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if width >= count:
        assert_close(
            pareto_weights(gradients[order] @ gradients[order].T, bounds),
            weights[order],
            rtol=1e-5,
            atol=1e-6,
        )
    if count == 2 and share == 0:
        assert (
            gradients @ (weights @ gradients) >= -1e-9 * size**2
        ).all()  # a step against the mixture makes neither worse


def test_pareto_gradient_flows_through_the_losses_alone():
    model, x = torch.nn.Linear(3, 2), torch.randn(8, 3)
    unused = torch.nn.ModuleList([model, torch.nn.Linear(2, 2)])
    losses = list(model(x).square().mean(0))
    pareto = ParetoEfficientMultiTaskLoss([0.0, 0.1])
    weights = pareto.weights(losses, unused.parameters())
    assert_close(weights, pareto.weights(losses, model.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(weights, pareto.weights(losses, model.parameters()), rtol=1e-6, atol=1e-7)
    total = pareto(losses, unused)
    assert not weights.requires_grad and not list(pareto.state_dict())
    assert_close(
        torch.autograd.grad(total, model.weight, retain_graph=True)[0],
        torch.autograd.grad(sum(w * loss for w, loss in zip(weights.float(), losses)), model.weight)[0],
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: BinaryCrossEntropy(-0.1),
        lambda: LogLoss(0.0),
        lambda: BinaryFocalLoss(gamma=-1),
        lambda: BinaryFocalLoss(alpha=0.0),
        lambda: BinaryFocalLoss(ohem_ratio=1.1),
        lambda: F1ReweightedLoss(beta_square=-1),
        lambda: ZILNLoss(max_sigma=0),
        lambda: ZILNLoss(mu_regularization=-1),
        lambda: ESMMLoss(ctr_weight=-1),
        lambda: ParetoEfficientMultiTaskLoss([0.6, 0.4]),
        lambda: UncertaintyWeighting(["a", "a"]),
        lambda: LossSet(PARTS, {"other": 1.0}),
        lambda: LossSet(PARTS, strategy="best"),
        lambda: LossSet(PARTS, learned=["sigmoid_l2_loss"]),
        lambda: loss_names(["a", "b"], [None, "a"]),
        lambda: BinaryCrossEntropy()(torch.zeros(3, 1), torch.zeros(3)),
        lambda: BinaryFocalLoss()(torch.zeros(3), torch.zeros(4)),
        lambda: L2Loss()(torch.zeros(3), torch.zeros(3), sample_weight=torch.ones(1)),
        lambda: BinaryFocalLoss(ohem_ratio=0.5)(
            torch.zeros(3), torch.zeros(3), sample_weight=torch.ones(1)
        ),
        lambda: ZILNLoss()(torch.zeros(3, 2), torch.zeros(3)),
        lambda: ESMMLoss()(torch.zeros(3), torch.zeros(2), torch.zeros(3), torch.zeros(3)),
        lambda: OrderCalibrateLoss()(torch.zeros(3), torch.zeros(3)),
    ],
)
def test_what_cannot_be_meant_is_refused(make):
    with pytest.raises(ValueError, match=r"must|give|each|only|are"): make()
