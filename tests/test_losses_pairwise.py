"""Pairwise losses against all pairs written out: hypothesis draws sessions, grades, ties and weights,
the same ones every run.
"""

from math import inf

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("hypothesis", reason="hypothesis is not installed: no drawn batches")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from recbench.losses.pairwise import PairwiseLogisticLoss, PairwiseLoss  # noqa: E402
from recbench.losses.pairwise_focal import PairwiseFocalLoss  # noqa: E402
from recbench.losses.pairwise_hinge import PairwiseHingeLoss  # noqa: E402
from recbench.losses.sessions import CHUNK, segment_ids, segment_logsumexp, segment_sum  # noqa: E402

FORMS = [
    (PairwiseLoss, {}),
    (PairwiseLoss, dict(margin=0.5, temperature=0.7)),
    (PairwiseLogisticLoss, dict(hinge_margin=0.5, temperature=2.0)),
    (PairwiseLogisticLoss, dict(use_label_margin=True, temperature=2.0)),
    (PairwiseLogisticLoss, dict(ohem_ratio=0.4)),
    (PairwiseFocalLoss, {}),
    (PairwiseFocalLoss, dict(gamma=0.5, alpha=0.3, hinge_margin=0.5, temperature=2.0)),
    (PairwiseFocalLoss, dict(hinge_margin=0.5, ohem_ratio=0.4)),
    (PairwiseHingeLoss, {}),
    (PairwiseHingeLoss, dict(temperature=2.0)),
    (PairwiseHingeLoss, dict(temperature=2.0, label_is_logits=False)),
    (PairwiseHingeLoss, dict(use_label_margin=False, margin=0.5)),
    (PairwiseHingeLoss, dict(use_label_margin=False, ohem_ratio=0.4)),
    (PairwiseHingeLoss, dict(use_exponent=True, temperature=0.5)),
    (PairwiseHingeLoss, dict(use_exponent=True, use_label_margin=False, margin=0.25)),
]
each_form = pytest.mark.parametrize(
    "kind, options",
    FORMS,
    ids=[f"{kind.__name__}-{'-'.join(options) or 'defaults'}" for kind, options in FORMS],
)
drawn = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def matrix_of_terms(
    kind,
    labels,
    difference,
    temperature=1.0,
    margin=None,
    hinge_margin=None,
    gamma=2.0,
    alpha=None,
    use_label_margin=None,
    label_is_logits=True,
    use_exponent=False,
    **_,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Terms of all differences of logits, and which of them count, straight from the formulas.

    `difference(x)` is x_i - x_j.
    """
    d, y = difference(temperature), labels / (temperature if label_is_logits else 1)
    apart = lambda x: x[:, None] - x
    everything = torch.ones_like(d, dtype=torch.bool)
    if kind is PairwiseLoss: return F.softplus((margin or 0) - d), everything
    if kind is PairwiseLogisticLoss:
        return F.softplus((apart(y) if use_label_margin else hinge_margin or 0) - d), everything
    if kind is PairwiseFocalLoss:
        return (alpha or 1) * torch.sigmoid(-d) ** gamma * F.softplus(-d), d < (
            inf if hinge_margin is None else hinge_margin
        )
    if use_exponent:
        d, y = difference(temperature, torch.sigmoid), torch.sigmoid(y) if label_is_logits else y
    missing = (1.0 if margin is None else margin) - d if use_label_margin is False else apart(y) - d
    return F.relu(missing.exp() - 1 if use_exponent else missing), everything


def plain(kind, options, logits, labels, weight, sessions) -> torch.Tensor:
    "The loss from B x B matrices."
    def difference(temperature, of=lambda x: x):
        return of(logits / temperature)[:, None] - of(logits / temperature)

    terms, counts = matrix_of_terms(kind, labels.to(logits.dtype), difference, **options)
    kept = (labels[:, None] > labels) & (sessions[:, None] == sessions) & counts
    weights = weight[:, None].expand_as(terms)[kept]
    terms, ratio = terms[kept] * weights, options.get("ohem_ratio", 1.0)
    if ratio == 1 or not len(terms): return terms.sum() / max(int(weights.count_nonzero()), 1)
    hardest = terms.topk(max(1, round(len(terms) * ratio))).values
    return hardest.sum() / max(int(hardest.count_nonzero()), 1)


def both(loss, logits, *args) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, *args)
    return (
        value.detach(),
        torch.autograd.grad(value, logits, allow_unused=True, materialize_grads=True)[0],
    )


def ours(kind, options):
    return lambda logits, labels, weight, sessions: kind(**options)(
        logits, labels, sample_weight=weight, session_ids=sessions
    )


@st.composite
def batches(draw, ties: bool = True) -> tuple[torch.Tensor, ...]:
    """Logits, labels, weights, session ids of 0 to 14 rows.

    With `ties` among the logits and at the kinks.
    """
    rows, spread, grades = (
        draw(st.integers(0, 14)),
        draw(st.sampled_from([1, 2, 4, 14])),
        draw(st.sampled_from([1, 2, 3, 14])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    tied = ties and draw(st.booleans())
    logits = (
        torch.randint(-8, 9, (rows,), generator=generator) / 4
        if tied
        else 2 * torch.randn(rows, generator=generator, dtype=torch.float64)
    )
    labels = torch.randint(0, grades, (rows,), generator=generator)
    if draw(st.booleans()): labels = labels.double() / 4 - 1
    weight = torch.tensor(draw(st.sampled_from([[1.0], [0.0, 1.0, 2.5], [0.0]])), dtype=torch.float64)
    names = torch.tensor([-2**62, 7, 0, 2**62, *range(90, 100)])
    pick = lambda values, number: values[torch.randint(0, number, (rows,), generator=generator)]
    return logits.double(), labels, pick(weight, len(weight)), pick(names, spread)


@each_form
@drawn
@given(data=st.data())
def test_equals_all_pairs(kind, options, data):
    batch = data.draw(
        batches(ties="ohem_ratio" not in options)
    )  # among equal terms the hardest are not one choice
    value, gradient = both(ours(kind, options), *batch)
    wanted, slopes = both(lambda *args: plain(kind, options, *args), *batch)
    assert_close(value, wanted)
    assert_close(gradient, slopes)


@each_form
@drawn
@given(data=st.data())
def test_order_of_rows_names_of_sessions_and_level_of_scores_do_not_matter(kind, options, data):
    logits, labels, weight, sessions = data.draw(batches(ties=False))
    value, gradient = both(ours(kind, options), logits, labels, weight, sessions)
    assert value >= 0 and value.isfinite() and gradient.isfinite().all()

    shuffled = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    again, moved = both(
        ours(kind, options), logits[shuffled], labels[shuffled], weight[shuffled], sessions[shuffled]
    )
    assert_close(again, value)
    assert_close(moved, gradient[shuffled])

    ids, segments = segment_ids(sessions, len(logits))
    renamed, _ = both(ours(kind, options), logits, labels, weight, 10**9 - ids)
    assert_close(renamed, value)
    if options.get("use_exponent"): return  # sigmoids are not shifted along
    assert_close(segment_sum(gradient, ids, segments), torch.zeros(segments, dtype=torch.float64))
    lifted, _ = both(ours(kind, options), logits + 3 * ids, labels, weight, sessions)
    assert_close(lifted, value)


@each_form
@drawn
@given(batch=batches(ties=False), temperature=st.sampled_from([0.25, 0.5, 3.0]))
def test_temperature_divides_the_logits(kind, options, batch, temperature):
    logits, labels, weight, sessions = batch
    with_labels = options.get("use_label_margin", kind is PairwiseHingeLoss) and options.get(
        "label_is_logits", True
    )
    cold, _ = both(
        ours(kind, options | dict(temperature=temperature)), logits, labels, weight, sessions
    )
    plain_one, _ = both(
        ours(kind, options | dict(temperature=1.0)),
        logits / temperature,
        labels / temperature if with_labels else labels,
        weight,
        sessions,
    )
    assert_close(cold, plain_one)


@drawn
@given(batch=batches())
def test_special_cases_of_one_another(batch):
    ranknet, slopes = both(ours(PairwiseLoss, {}), *batch)
    for kind, options in [
        (PairwiseLogisticLoss, {}),
        (PairwiseFocalLoss, dict(gamma=0.0)),
        (PairwiseFocalLoss, dict(gamma=0.0, hinge_margin=inf)),
    ]:
        value, gradient = both(ours(kind, options), *batch)
        assert_close(value, ranknet)
        assert_close(gradient, slopes)
    logits, labels, weight, sessions = batch
    assert both(ours(PairwiseHingeLoss, {}), labels.double(), labels, weight, sessions)[0] == 0
    assert_close(both(ours(PairwiseLoss, {}), logits, labels, 3 * weight, sessions)[0], 3 * ranknet)
    dropped = (
        (logits, labels, torch.where(labels == labels.max(), 0.0, weight), sessions)
        if len(labels)
        else batch
    )
    assert_close(both(ours(PairwiseLoss, {}), *dropped)[0], plain(PairwiseLoss, {}, *dropped))


@drawn
@given(batch=batches())
def test_loss_bounds_the_share_of_wrongly_ordered_pairs(batch):
    logits, labels, _, sessions = batch
    pairs = (labels[:, None] > labels) & (sessions[:, None] == sessions)
    wrong = (logits[:, None] < logits)[pairs]
    loss = PairwiseLogisticLoss()(logits, labels, session_ids=sessions)
    assert loss / torch.tensor(2.0).log() >= wrong.double().mean().nan_to_num() - 1e-12


@each_form
def test_gradient_by_differences(kind, options):
    torch.manual_seed(0)
    logits, weight = torch.randn(12, dtype=torch.float64, requires_grad=True), torch.tensor(
        [1.0, 0.0, 2.0] * 4, dtype=torch.float64
    )
    for grades in (2, 12):
        labels, sessions = torch.arange(12) * 5 % grades, torch.arange(12) // 6
        assert gradcheck(lambda z: ours(kind, options)(z, labels, weight, sessions), logits)


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_where_logits_are_huge_and_zero_where_nothing_is_compared(kind, options, dtype):
    clicked, two = torch.tensor([1, 0, 1, 0]), torch.tensor([5, 5, 6, 6])
    for size in (1e4, -1e4):
        value, gradient = both(
            kind(**options), size * torch.tensor([1.0, -1.0, -1.0, 1.0]).to(dtype), clicked
        )
        assert (
            value.dtype == torch.float32
            and value.isfinite()
            and value >= 0
            and gradient.dtype == dtype
            and gradient.isfinite().all()
        )
    for rows, labels, weight, sessions in [
        (4, clicked, torch.zeros(4), None),
        (4, clicked.sort().values, None, two),
        (4, torch.ones(4), None, None),
        (1, torch.ones(1), None, None),
        (0, torch.ones(0), None, two[:0]),
    ]:
        value, gradient = both(
            ours(kind, options), torch.linspace(-1, 1, rows).to(dtype), labels, weight, sessions
        )
        assert value == 0 and gradient.eq(0).all()


@pytest.mark.parametrize(
    "kind, options",
    [
        (PairwiseLogisticLoss, {}),
        (PairwiseFocalLoss, dict(hinge_margin=1.0)),
        (PairwiseLogisticLoss, dict(ohem_ratio=0.1)),
        (PairwiseHingeLoss, {}),
        (PairwiseHingeLoss, dict(use_label_margin=False)),
    ],
)
def test_many_blocks_of_pairs(kind, options):
    torch.manual_seed(0)
    rows = 900
    logits, weight, labels, sessions = (
        torch.randn(rows, dtype=torch.float64),
        torch.rand(rows, dtype=torch.float64),
        torch.randint(0, 3, (rows,)),
        torch.zeros(rows, dtype=torch.int64),
    )
    assert (labels[:, None] > labels).sum() > 3 * CHUNK
    value, gradient = both(ours(kind, options), logits, labels, weight, sessions)
    wanted, slopes = both(lambda *args: plain(kind, options, *args), logits, labels, weight, sessions)
    assert_close(value, wanted)
    assert_close(gradient, slopes)
    assert_close(both(ours(kind, options), logits, labels, weight, None)[0], wanted)
    assert_close(
        both(ours(kind, options), logits.float(), labels, weight, sessions)[0].double(),
        wanted,
        rtol=2e-5,
        atol=0,
    )


class LargestTensor(TorchDispatchMode):
    "Elements of the largest tensor made."
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for part in made if isinstance(made, tuple | list) else [made]:
            if isinstance(part, torch.Tensor): self.elements = max(self.elements, part.numel())
        return made


@pytest.mark.parametrize(
    "kind, options", [(PairwiseLogisticLoss, {}), (PairwiseFocalLoss, {}), (PairwiseHingeLoss, {})]
)
def test_nothing_of_the_size_of_the_pairs_is_made(kind, options):
    torch.manual_seed(0)
    with LargestTensor() as largest: both(kind(**options), torch.randn(3000), torch.rand(3000) < 0.5)
    assert largest.elements <= CHUNK + 3000


@drawn
@given(batch=batches())
def test_segments_equal_each_session_alone(batch):
    logits, _, _, sessions = batch
    ids, segments = segment_ids(sessions, len(logits))
    apart = [logits[sessions == session] for session in sessions.unique()]
    assert segments == len(apart) and sessions.unique()[ids].equal(sessions)
    assert_close(
        segment_sum(logits, ids, segments),
        torch.stack([part.sum() for part in apart]) if apart else logits,
    )
    assert_close(
        segment_logsumexp(logits, ids, segments),
        torch.stack([part.logsumexp(0) for part in apart]) if apart else logits,
    )
