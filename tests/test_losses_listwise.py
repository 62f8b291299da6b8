"""Losses of sessions and of embeddings against loops and matrices written out: hypothesis draws
batches, sessions, labels and weights, the same ones every run.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.testing import assert_close

pytest.importorskip("hypothesis", reason="hypothesis is not installed: no drawn batches")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_losses_pairwise import LargestTensor  # noqa: E402

from recbench.losses.anchors import anchor_mean  # noqa: E402
from recbench.losses.circle import CircleLoss  # noqa: E402
from recbench.losses.jrc import RANDOM_WEIGHTS, WEIGHT_STRATEGIES, JRCLoss  # noqa: E402
from recbench.losses.listwise import ListwiseDistillLoss, ListwiseRankLoss  # noqa: E402
from recbench.losses.multi_similarity import MultiSimilarityLoss  # noqa: E402
from recbench.losses.support_vector import (
    SupportVectorSoftmaxLoss,
    draw_shifts,
    shifted_scores,
)  # noqa: E402

SESSION_FORMS = [
    (JRCLoss, dict(alpha=0.3)),
    (JRCLoss, dict(alpha=0.0)),
    (JRCLoss, dict(alpha=0.3, same_label=False)),
    (JRCLoss, dict(alpha=0.0, same_label=False)),
    (ListwiseRankLoss, {}),
    (ListwiseRankLoss, dict(temperature=0.5, transform="gain")),
    (ListwiseRankLoss, dict(transform="log1p")),
    (ListwiseRankLoss, dict(temperature=2.0, label_is_logits=True)),
    (ListwiseRankLoss, dict(scale_logits=True)),
    (ListwiseDistillLoss, {}),
    (ListwiseDistillLoss, dict(temperature=2.0, label_clip_max_value=4.0)),
    (ListwiseDistillLoss, dict(transform="reciprocal")),
    (ListwiseDistillLoss, dict(transform="discount")),
]
EMBEDDING_FORMS = [
    (CircleLoss, {}),
    (CircleLoss, dict(margin=0.0, gamma=4.0)),
    (CircleLoss, dict(margin=0.4, gamma=200.0)),
    (MultiSimilarityLoss, {}),
    (MultiSimilarityLoss, dict(alpha=5.0, beta=10.0, lamb=0.2)),
    (MultiSimilarityLoss, dict(lamb=0.5, eps=0.2, ms_mining=True)),
]


def each(forms):
    return pytest.mark.parametrize(
        "kind, options",
        forms,
        ids=[f"{kind.__name__}-{'-'.join(options) or 'defaults'}" for kind, options in forms],
    )


drawn = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def both(loss, leaf, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    "Value and gradient."
    leaf = leaf.detach().clone().requires_grad_()
    value = loss(leaf, *args, **kwargs)
    return (
        value.detach(),
        torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)[0],
    )


@st.composite
def batches(draw, kind: type, ties: bool = True) -> tuple[torch.Tensor, ...]:
    """Logits or embeddings, labels, weights, session ids of 0 to 12 rows.

    One class, one session and sessions of one row among them.
    """
    rows, sessions, classes = (
        draw(st.integers(0, 12)),
        draw(st.sampled_from([1, 3, 12])),
        draw(st.sampled_from([1, 2, 4])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    pick = lambda values, number: torch.tensor(values)[
        torch.randint(0, number, (rows,), generator=generator)
    ]
    shape = (
        (rows,)
        if kind in (ListwiseRankLoss, ListwiseDistillLoss)
        else (rows, 2) if kind is JRCLoss else (rows, 3)
    )
    values = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if ties and draw(st.booleans()):
        values = values.round()
    if kind is JRCLoss:
        labels = pick([draw(st.integers(0, 1)), 0, 1, 1], classes)
    else:
        labels = torch.randint(0, classes, (rows,), generator=generator) + (kind is ListwiseDistillLoss)
    weights = draw(st.sampled_from([[1.0], [0.0, 1.0, 2.5], [0.0]]))
    return (
        values,
        labels,
        pick(weights, len(weights)).double(),
        pick([7, -(2**62), 2**62, *range(90, 99)], sessions),
    )


def count_weight(weight: torch.Tensor) -> int:
    return max(int(weight.count_nonzero()), 1)


def plain_jrc(logits, labels, weight, sessions, alpha, same_label=True) -> torch.Tensor:
    "The B x B form."
    same = sessions[:, None] == sessions
    if not same_label:
        same = same & (labels[:, None] != labels) | torch.eye(len(labels), dtype=torch.bool)
    ranking = (
        logits.T[labels].masked_fill(~same, -torch.inf).logsumexp(1)
        - logits.gather(1, labels[:, None])[:, 0]
    )
    terms = alpha * F.cross_entropy(logits, labels, reduction="none") + (1 - alpha) * ranking
    return (terms * weight).sum() / count_weight(weight)


def plain_target(
    kind,
    labels,
    temperature=1.0,
    label_is_logits=False,
    transform=None,
    label_clip_max_value=512.0,
    **_,
) -> torch.Tensor:
    "Target of the rows of one session."
    y = labels.double()
    if kind is ListwiseRankLoss:
        if label_is_logits: return (y / temperature).softmax(0)
        return {None: y, "gain": 2**y - 1, "log1p": y.log1p()}[transform]
    r = y.clamp(1, label_clip_max_value)
    target = {
        None: math.log(1 + label_clip_max_value) - r.log(),
        "reciprocal": 1 / r,
        "discount": 1 / (1 + r).log2(),
    }[transform]
    return target / target.sum()


def plain_listwise(kind, options, logits, labels, weight, sessions) -> torch.Tensor:
    "A loop over sessions."
    total, counted = 0 * logits.sum(), 0
    for rows in (sessions == session for session in sessions.unique()):
        counted += bool(weight[rows].any())
        total = (
            total
            - (
                weight[rows]
                * plain_target(kind, labels[rows], **options)
                * (logits[rows] / options.get("temperature", 1.0)).log_softmax(0)
            ).sum()
        )
    return total / max(counted, 1)


def plain_session_loss(kind, options, logits, labels, weight, sessions) -> torch.Tensor:
    if kind is JRCLoss: return plain_jrc(logits, labels, weight, sessions, **options)
    return plain_listwise(kind, options, logits, labels, weight, sessions)


def plain_embedding_loss(
    kind,
    embeddings,
    labels,
    sessions,
    margin=0.25,
    gamma=32.0,
    alpha=2.0,
    beta=50.0,
    lamb=1.0,
    eps=0.1,
    ms_mining=False,
) -> torch.Tensor:
    "The B x B form."
    length = embeddings.norm(dim=1, keepdim=True)
    unit = embeddings / torch.where(length == 0, torch.inf, length)
    scores, rows = unit @ unit.T, len(labels)
    same = (labels[:, None] == labels) & (sessions[:, None] == sessions)
    positive, negative = same & ~torch.eye(rows, dtype=torch.bool), ~same
    if not rows: return 0 * embeddings.sum()
    log_sum = lambda values, mask: torch.cat(
        [values.masked_fill(~mask, -torch.inf), torch.full((rows, 1), -1e300, dtype=values.dtype)], 1
    ).logsumexp(1)
    if kind is CircleLoss:
        pull = -gamma * (1 + margin - scores.detach()).relu() * (scores - 1 + margin)
        push = gamma * (scores.detach() + margin).relu() * (scores - margin)
        return F.softplus(log_sum(pull, positive) + log_sum(push, negative)).mean()
    if ms_mining:
        far, near = scores.masked_fill(~positive, torch.inf).amin(1, True), scores.masked_fill(
            ~negative, -torch.inf
        ).amax(1, True)
        positive, negative = positive & (scores < near + eps), negative & (scores > far - eps)
    return (
        F.softplus(log_sum(-alpha * (scores - lamb), positive)) / alpha
        + F.softplus(log_sum(beta * (scores - lamb), negative)) / beta
    ).mean()


def session_loss(kind, options):
    return lambda logits, labels, weight, sessions: kind(**options)(
        logits, labels, sample_weight=weight, session_ids=sessions
    )


@each(SESSION_FORMS)
@drawn
@given(data=st.data())
def test_sessions_equal_the_definition(kind, options, data):
    batch = data.draw(batches(kind))
    value, gradient = both(session_loss(kind, options), *batch)
    wanted, slopes = both(lambda *args: plain_session_loss(kind, options, *args), *batch)
    assert_close(value, wanted)
    assert_close(gradient, slopes)
    alone, _ = both(kind(**options), *batch[:2])
    assert_close(
        alone,
        plain_session_loss(
            kind, options, *batch[:2], torch.ones_like(batch[2]), torch.zeros_like(batch[3])
        ),
    )


@each(SESSION_FORMS)
@drawn
@given(data=st.data())
def test_order_of_rows_and_names_of_sessions_do_not_matter(kind, options, data):
    values, labels, weight, sessions = data.draw(batches(kind))
    value, gradient = both(session_loss(kind, options), values, labels, weight, sessions)
    assert value >= 0 and value.isfinite() and gradient.isfinite().all()
    shuffled = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))
    again, moved = both(
        session_loss(kind, options),
        values[shuffled],
        labels[shuffled],
        3 * weight[shuffled],
        ~sessions[shuffled],
    )
    assert_close(again, 3 * value)
    assert_close(moved, 3 * gradient[shuffled])


@each(SESSION_FORMS)
@drawn
@given(data=st.data())
def test_level_of_a_session_does_not_matter(kind, options, data):
    "Of each column, for the contest of two."
    values, labels, weight, sessions = data.draw(batches(kind))
    options = options | dict(alpha=0.0) if kind is JRCLoss else options
    level = torch.stack([torch.sin(sessions.double() % 97 + phase) for phase in range(2)], 1)
    lifted, slopes = both(
        session_loss(kind, options),
        values + (level if kind is JRCLoss else level[:, 0]),
        labels,
        weight,
        sessions,
    )
    value, gradient = both(session_loss(kind, options), values, labels, weight, sessions)
    assert_close(lifted, value)
    assert_close(slopes, gradient)
    sums = [gradient[sessions == session].sum(0) for session in sessions.unique()]
    assert_close(sums, [torch.zeros_like(total) for total in sums])


@drawn
@given(batch=batches(JRCLoss))
def test_jrc_reductions(batch):
    logits, labels, _, sessions = batch
    for same_label in (True, False):
        assert_close(
            JRCLoss(1.0, same_label)(logits, labels, session_ids=sessions),
            F.cross_entropy(logits, labels) if len(labels) else logits.sum(),
        )
        assert JRCLoss(0.0, same_label)(logits, labels, session_ids=torch.arange(len(labels))) == 0
        if len(labels) > 1:
            pair, click = logits[:2], torch.tensor([1, 0])
            wanted = (F.softplus(pair[1, 1] - pair[0, 1]) + F.softplus(pair[0, 0] - pair[1, 0])) / 2
            assert_close(JRCLoss(0.0, same_label)(pair, click), wanted)
    assert JRCLoss(0.0, same_label=False)(logits, torch.ones_like(labels), session_ids=sessions) == 0


def test_jrc_weights_of_the_two_parts():
    torch.manual_seed(0)
    logits, labels, sessions = torch.randn(9, 2), torch.tensor([1, 0, 0] * 3), torch.arange(9) // 3
    parts = [JRCLoss(alpha)(logits, labels, session_ids=sessions) for alpha in (0.0, 1.0)]
    for strategy in RANDOM_WEIGHTS:
        drawn_losses = [
            JRCLoss(weight_strategy=strategy)(logits, labels, session_ids=sessions) for _ in range(20)
        ]
        assert (
            all(min(parts) - 1e-6 <= loss <= max(parts) + 1e-6 for loss in drawn_losses)
            and len(set(map(float, drawn_losses))) > 1
        )
        assert_close(
            JRCLoss(weight_strategy=strategy).eval()(logits, labels, session_ids=sessions),
            sum(parts) / 2,
        )
    learnt = JRCLoss(weight_strategy="uncertainty")
    loss = learnt(logits, labels, session_ids=sessions)
    assert_close(loss, sum(parts))
    assert_close(torch.autograd.grad(loss, learnt.log_variance)[0], 0.5 - torch.stack(parts[::-1]))


@drawn
@given(batch=batches(ListwiseRankLoss))
def test_listwise_reductions(batch):
    logits, labels, _, sessions = batch
    rank = ListwiseRankLoss()
    assert (
        rank(logits, labels, session_ids=torch.arange(len(labels)))
        == 0
        == rank(logits, 0 * labels, session_ids=sessions)
    )
    for loss, given_labels in (
        (ListwiseRankLoss(label_is_logits=True, temperature=3.0), logits),
        (ListwiseDistillLoss(), torch.ones_like(labels)),
    ):
        value, gradient = both(
            loss, logits if loss.temperature == 3 else 0 * logits, given_labels, session_ids=sessions
        )  # the student is the teacher
        assert_close(gradient, torch.zeros_like(logits))
        assert value >= 0
    if len(labels):
        assert_close(
            rank(logits, F.one_hot(labels.argmax(), len(labels))),
            F.cross_entropy(logits[None], labels.argmax()[None]),
        )
    assert_close(
        ListwiseRankLoss(temperature=2.0)(2 * logits, labels, session_ids=sessions),
        rank(logits, labels, session_ids=sessions),
    )


@each(EMBEDDING_FORMS)
@drawn
@given(data=st.data())
def test_embeddings_equal_the_matrix(kind, options, data):
    ties = not options.get("ms_mining")  # a tie at the edge of the mining may fall to either side
    embeddings, labels, _, sessions = data.draw(batches(kind, ties=ties))
    for session_ids in (None, sessions):
        value, gradient = both(kind(**options), embeddings, labels, session_ids=session_ids)
        wanted, slopes = both(
            lambda e, ids=session_ids: plain_embedding_loss(
                kind, e, labels, torch.zeros_like(labels) if ids is None else ids, **options
            ),
            embeddings,
        )
        assert value >= 0 and value.isfinite() and gradient.isfinite().all()
        assert_close(value, wanted)
        assert_close(gradient, slopes)
        for cells in (1, 25):
            assert_close(
                anchor_mean(embeddings, labels, session_ids, kind(**options).weigh, cells), value
            )


@each(EMBEDDING_FORMS)
@drawn
@given(data=st.data())
def test_rotation_scale_and_order_do_not_matter(kind, options, data):
    embeddings, labels, _, sessions = data.draw(batches(kind, ties=False))
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    scale = torch.rand(len(labels), 1, generator=generator, dtype=torch.float64) + 0.1
    shuffled = torch.randperm(len(labels), generator=generator)
    value, gradient = both(kind(**options), embeddings, labels, session_ids=sessions)
    again, moved = both(
        kind(**options),
        (embeddings @ rotation * scale)[shuffled],
        labels[shuffled],
        session_ids=sessions[shuffled],
    )
    assert_close(again, value)
    assert_close(moved, (gradient @ rotation / scale)[shuffled])
    assert_close((gradient * embeddings).sum(1), torch.zeros(len(labels), dtype=torch.float64))


def test_circle_and_multi_similarity_reductions():
    torch.manual_seed(0)
    trio, labels = F.normalize(torch.randn(3, 4, dtype=torch.float64), dim=1), torch.tensor([0, 0, 1])
    s_p, s_n = (trio[:2] * trio[[1, 0]]).sum(1), trio[:2] @ trio[2]
    value = F.softplus(9 * ((s_n + 0.1).relu() * (s_n - 0.1) - (1.1 - s_p).relu() * (s_p - 0.9)))
    assert_close(
        CircleLoss(0.1, 9.0)(trio, labels), value.sum() / 3
    )  # row 2 has no positive, yet counts
    embeddings, classes = torch.randn(30, 4, dtype=torch.float64), torch.arange(30) % 4
    size = torch.bincount(classes)[classes].double()
    assert_close(
        CircleLoss(gamma=1e-10)(embeddings, classes), ((size - 1) * (30 - size)).log1p().mean()
    )
    unit = F.normalize(embeddings, dim=1)
    scores = (unit @ unit.T).fill_diagonal_(-1)
    hinge = (scores.amax(1) - 0.1).relu().mean()
    assert_close(
        MultiSimilarityLoss(beta=1e6, lamb=0.1)(embeddings, torch.arange(30)), hinge, atol=1e-5, rtol=0
    )


@each(SESSION_FORMS)
def test_gradient_of_sessions_by_differences(kind, options):
    torch.manual_seed(0)
    logits = (
        torch.randn(12, 2, dtype=torch.float64)
        if kind is JRCLoss
        else torch.randn(12, dtype=torch.float64)
    )
    labels, weight, sessions = (
        torch.arange(12) * 5 % (2 if kind is JRCLoss else 4),
        torch.tensor([1.0, 0.0, 2.0] * 4, dtype=torch.float64),
        torch.arange(12) % 5,
    )
    assert gradcheck(
        lambda z: session_loss(kind, options)(z, labels, weight, sessions), logits.requires_grad_()
    )


@pytest.mark.parametrize(
    "options", [options for kind, options in EMBEDDING_FORMS if kind is MultiSimilarityLoss], ids=str
)
def test_gradient_of_embeddings_by_differences(options):
    "Not of the circle loss: its pace is a constant to the gradient, not to a difference."
    torch.manual_seed(0)
    embeddings = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda e: MultiSimilarityLoss(**options)(e, torch.arange(10) % 3), embeddings)


HALVES = [torch.float32, torch.bfloat16, torch.float16]


@each(SESSION_FORMS)
@pytest.mark.parametrize("dtype", HALVES)
def test_sessions_finite_where_logits_are_huge_and_zero_without_terms(kind, options, dtype):
    shape = lambda rows: (
        rows.to(dtype)[:, None] * torch.tensor([1.0, -1.0], dtype=dtype)
        if kind is JRCLoss
        else rows.to(dtype)
    )
    clicked, two = torch.tensor([1, 0, 1, 0]), torch.tensor([5, 5, 6, 6])
    for size in (1e4, -1e4, 0.0):
        for labels in (clicked, torch.zeros_like(clicked), torch.ones_like(clicked)):
            value, gradient = both(
                kind(**options),
                shape(size * torch.tensor([1.0, -1.0, -1.0, 1.0])),
                labels,
                session_ids=two,
            )
            assert (
                value.dtype == torch.float32
                and value.isfinite()
                and value >= 0
                and gradient.dtype == dtype
                and gradient.isfinite().all()
            )
    for rows, weight in [(4, torch.zeros(4)), (0, None)]:
        value, gradient = both(
            kind(**options), shape(torch.linspace(-1, 1, rows)), clicked[:rows], sample_weight=weight
        )
        assert value == 0 and gradient.eq(0).all()
    if kind is not JRCLoss or options["alpha"] == 0:
        value, gradient = both(kind(**options), shape(torch.ones(1)), clicked[:1])
        assert value == 0 and gradient.eq(0).all()


@pytest.mark.parametrize("strategy", WEIGHT_STRATEGIES)
def test_every_strategy_takes_an_empty_batch(strategy):
    value, gradient = both(
        JRCLoss(weight_strategy=strategy), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    )
    assert value == 0 and gradient.shape == (0, 2)


@each(EMBEDDING_FORMS)
@pytest.mark.parametrize("dtype", HALVES)
def test_embeddings_finite_at_any_length_and_zero_without_terms(kind, options, dtype):
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    for embeddings in (
        1e4 * torch.randn(6, 4),
        1e-3 * torch.randn(6, 4),
        torch.ones(6, 4),
        torch.zeros(6, 4),
        torch.randn(6, 4) * (labels > 0)[:, None],
    ):
        value, gradient = both(kind(**options), embeddings.to(dtype), labels)
        assert (
            value.dtype == torch.float32
            and value.isfinite()
            and gradient.dtype == dtype
            and gradient.isfinite().all()
        )
    for rows in (0, 1):
        assert [
            result.count_nonzero()
            for result in both(kind(**options), torch.randn(rows, 4).to(dtype), labels[:rows])
        ] == [0, 0]
    if kind is CircleLoss:
        for one_sided in (torch.zeros(6), torch.arange(6)):
            assert [
                result.count_nonzero()
                for result in both(kind(**options), torch.randn(6, 4).to(dtype), one_sided)
            ] == [0, 0]


def test_autocast_and_no_grad_change_nothing():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(20, 8), torch.arange(20) % 3
    for loss in (CircleLoss(), MultiSimilarityLoss(lamb=0.5)):
        value, gradient = both(loss, embeddings, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16): mixed = both(loss, embeddings, labels)
        assert_close(mixed, (value, gradient), rtol=0, atol=0)
        with torch.no_grad(): assert loss(embeddings.requires_grad_(), labels) == value
        assert not loss(embeddings.detach(), labels).requires_grad


def test_no_tensor_of_all_pairs():
    torch.manual_seed(0)
    rows = 3000
    labels, sessions = torch.randint(0, 2, (rows,)), torch.randint(0, rows // 10, (rows,))
    for kind, options in SESSION_FORMS:
        with LargestTensor() as largest:
            both(
                kind(**options),
                torch.randn(rows, 2) if kind is JRCLoss else torch.randn(rows),
                labels,
                session_ids=sessions,
            )
        assert largest.elements <= 4 * rows
    for kind, options in EMBEDDING_FORMS:
        with LargestTensor() as largest: both(kind(**options), torch.randn(rows, 8), sessions)
        assert largest.elements <= 1 << 17


@drawn
@given(
    rows=st.integers(1, 8),
    negatives=st.integers(0, 4),
    margin=st.sampled_from([0.0, 0.3]),
    t=st.sampled_from([1.0, 1.3]),
    gamma=st.sampled_from([1.0, 20.0]),
    seed=st.integers(0, 10**6),
)
def test_support_vectors_equal_the_definition(rows, negatives, margin, t, gamma, seed):
    generator = torch.Generator().manual_seed(seed)
    users, items = (
        torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    labels, shifts = torch.randint(0, 2, (rows,), generator=generator), draw_shifts(
        rows, negatives, generator
    )
    assert len(shifts) == len(set(shifts.tolist()) - {0}) == min(negatives, rows - 1)
    loss = SupportVectorSoftmaxLoss(margin, t, gamma)(
        *shifted_scores(users, items, shifts), sample_weight=labels.double()
    )
    cosines, terms = F.normalize(users, dim=1) @ F.normalize(items, dim=1).T, []
    for i in labels.nonzero()[:, 0].tolist():
        q, row = cosines[i, i] - margin, [cosines[i, (i - shift) % rows] for shift in shifts.tolist()]
        logits = gamma * torch.stack([q, *(t * n + t - 1 if n > q else n for n in row)])
        terms.append(logits.logsumexp(0) - logits[0])
    wanted = torch.stack(terms).mean() if terms else 0 * cosines.sum()
    assert_close(loss, wanted)
    assert_close(torch.autograd.grad(loss, (users, items)), torch.autograd.grad(wanted, (users, items)))
    harder = SupportVectorSoftmaxLoss(margin + 0.1, t + 0.2, gamma)(
        *shifted_scores(users, items, shifts), sample_weight=labels.double()
    )
    assert harder >= loss - 1e-12


def test_own_item_is_no_negative():
    users, items, ids = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([1, 1, 2, 3, 1])
    positive, negative = shifted_scores(users, items, draw_shifts(5, 9), ids)
    assert negative.isinf().sum(1).tolist() == [2, 2, 0, 0, 2]
    value, gradient = both(lambda n: SupportVectorSoftmaxLoss(t=1.5)(positive, n), negative)
    assert value.isfinite() and gradient[negative.isinf()].eq(0).all() and gradient.isfinite().all()
