"""Losses of sessions and of embeddings against the same losses on B x B matrices: CPU time of one
thread, extra peak memory.

    python benchmarks/session_losses.py [--rows 4096] [--many 65536] [--rounds 5]

About ten rows a session, one row in five positive; embeddings of width 32 with a class a session.
Forward and backward, forms taken in turn; memory is the highest of one step above what was held before
it, each form in a process of its own. Targets: JRC and listwise at least 50 times as fast as their
matrices, circle and multi-similarity at least as fast; each at most 20 MiB extra.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median

from _timing import interleaved, ratio, verdict
from in_batch_loss import status

WIDTH = 32
SPEED_TARGETS = {
    "JRC, whole session": 50,
    "JRC, other label": 50,
    "listwise rank": 50,
    "listwise distill": 50,
    "circle": 1,
    "multi-similarity": 1,
}
MEMORY_TARGET = 20  # MiB
LINEAR = ("JRC, whole session", "JRC, other label", "listwise rank", "listwise distill")


def inputs(rows: int) -> dict:
    "Scores that need gradients, clicks, teacher's positions and shuffled sessions."
    import torch
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.randn(rows, *shape, generator=generator).requires_grad_()
        for name, shape in {"pair": (2,), "logit": (), "embedding": (WIDTH,)}.items()
    }
    sessions = torch.randint(0, max(rows // 10, 1), (rows,), generator=generator)
    return scores | {
        "labels": (torch.rand(rows, generator=generator) < 0.2).long(),
        "positions": torch.randint(1, 11, (rows,), generator=generator),
        "sessions": sessions,
    }


def ours(name: str) -> Callable:
    "Loss of a batch by recbench."
    from recbench.losses.circle import CircleLoss
    from recbench.losses.jrc import JRCLoss
    from recbench.losses.listwise import ListwiseDistillLoss, ListwiseRankLoss
    from recbench.losses.multi_similarity import MultiSimilarityLoss
    return {
        "JRC, whole session": lambda b: JRCLoss()(b["pair"], b["labels"], session_ids=b["sessions"]),
        "JRC, other label": lambda b: JRCLoss(same_label=False)(
            b["pair"], b["labels"], session_ids=b["sessions"]
        ),
        "listwise rank": lambda b: ListwiseRankLoss()(
            b["logit"], b["labels"], session_ids=b["sessions"]
        ),
        "listwise distill": lambda b: ListwiseDistillLoss()(
            b["logit"], b["positions"], session_ids=b["sessions"]
        ),
        "circle": lambda b: CircleLoss()(b["embedding"], b["sessions"]),
        "multi-similarity": lambda b: MultiSimilarityLoss(lamb=0.5)(b["embedding"], b["sessions"]),
    }[name]


def same_session(batch: dict):
    return batch["sessions"][:, None] == batch["sessions"]


def plain_jrc(batch: dict, same_label: bool):
    import torch
    import torch.nn.functional as F
    logits, labels, rivals = batch["pair"], batch["labels"], same_session(batch)
    if not same_label:
        rivals = rivals & (labels[:, None] != labels) | torch.eye(len(labels), dtype=torch.bool)
    columns = logits.T[labels]  # [B, B]: row i holds everybody's logit of row i's label
    ranking = F.cross_entropy(columns.masked_fill(~rivals, -1e9), torch.arange(len(labels)))
    return 0.5 * F.cross_entropy(logits, labels) + 0.5 * ranking


def plain_listwise(batch: dict, target):
    import torch
    normaliser = (
        batch["logit"]
        .expand(len(target), -1)
        .masked_fill(~same_session(batch), -torch.inf)
        .logsumexp(1)
    )
    return (target * (normaliser - batch["logit"])).sum() / len(batch["sessions"].unique())


def plain_distill(batch: dict):
    preference = (513 / batch["positions"]).log()
    return plain_listwise(batch, preference / (same_session(batch) * preference).sum(1))


def plain_pairs(batch: dict):
    "Cosines, and which of them are positive and negative."
    import torch
    import torch.nn.functional as F
    unit, same = F.normalize(batch["embedding"], dim=1), same_session(batch)
    return unit @ unit.T, same & ~torch.eye(len(same), dtype=torch.bool), ~same


def masked_logsumexp(values, mask):
    return values.masked_fill(~mask, -1e9).logsumexp(1)


def plain_circle(batch: dict):
    import torch.nn.functional as F
    scores, positive, negative = plain_pairs(batch)
    pull, push = -32 * (1.25 - scores.detach()).relu() * (scores - 0.75), 32 * (
        scores.detach() + 0.25
    ).relu() * (scores - 0.25)
    return F.softplus(masked_logsumexp(pull, positive) + masked_logsumexp(push, negative)).mean()


def plain_multi_similarity(batch: dict):
    import torch.nn.functional as F
    scores, positive, negative = plain_pairs(batch)
    return (
        F.softplus(masked_logsumexp(-2 * (scores - 0.5), positive)) / 2
        + F.softplus(masked_logsumexp(50 * (scores - 0.5), negative)) / 50
    ).mean()


PLAIN = {
    "JRC, whole session": partial(plain_jrc, same_label=True),
    "JRC, other label": partial(plain_jrc, same_label=False),
    "listwise rank": lambda batch: plain_listwise(batch, batch["labels"]),
    "listwise distill": plain_distill,
    "circle": plain_circle,
    "multi-similarity": plain_multi_similarity,
}


def step(loss_of: Callable, batch: dict) -> float:
    "One forward and backward pass; the loss."
    for name in ("pair", "logit", "embedding"): batch[name].grad = None
    loss = loss_of(batch)
    loss.backward()
    return loss.item()


def print_memory(name: str, form: str, rows: int) -> None:
    "In a process of its own: highest memory of one step above the memory held before it, in MiB."
    import torch
    torch.set_num_threads(1)
    loss_of = ours(name) if form == "ours" else PLAIN[name]
    step(loss_of, inputs(64))
    batch = inputs(rows)
    before = status("VmRSS")
    step(loss_of, batch)
    print((status("VmHWM") - before) / 1024)


def memory(name: str, form: str, rows: int) -> float:
    "Extra MiB of one step, measured in a fresh process."
    command = [sys.executable, __file__, "--rows", str(rows), "--memory-of", name, form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(name: str, batch: dict, rounds: int) -> None:
    "Time and memory of one loss in both forms."
    rows, calls = len(batch["labels"]), {
        "ours": partial(step, ours(name), batch),
        "plain": partial(step, PLAIN[name], batch),
    }
    assert abs(calls["ours"]() / calls["plain"]() - 1) < 1e-4, f"{name}: two different losses"
    seconds = interleaved(calls, rounds)
    megabytes = {form: memory(name, form, rows) for form in calls}
    print(
        f"  {name:20s}"
        + "".join(
            f" {form} {1000 * median(seconds[form]):8.2f} ms CPU {megabytes[form]:8.1f} MiB extra;"
            for form in calls
        )
    )
    verdict(
        f"{name}, plain / ours, time:", ratio(seconds, "plain", "ours"), at_least=SPEED_TARGETS[name]
    )
    verdict(f"{name}, extra memory in MiB:", megabytes["ours"], at_most=MEMORY_TARGET, kind="value")


def scale(name: str, rows: int, many: int, rounds: int) -> None:
    "A batch whose matrix would not fit: time a row must stay what it was."
    seconds = interleaved(
        {str(size): partial(step, ours(name), inputs(size)) for size in (rows, many)}, rounds
    )
    print(
        f"  {name:20s} {1000 * median(seconds[str(many)]):8.2f} ms CPU "
        f"{memory(name, 'ours', many):8.1f} MiB extra; one B x B float32 matrix: "
        f"{4 * many**2 / 2**20:.0f} MiB"
    )
    verdict(
        f"{name}, time a row, B={many} / B={rows}:",
        ratio(seconds, str(many), str(rows)) * rows / many,
        at_most=2,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--many", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of: return print_memory(*args.memory_of, args.rows)
    print(f"forward + backward, B={args.rows}, about ten rows a session, D={WIDTH}")
    batch = inputs(args.rows)
    for name in PLAIN: compare(name, batch, args.rounds)
    print(f"B={args.many}")
    for name in LINEAR: scale(name, args.rows, args.many, args.rounds)


if __name__ == "__main__":
    main()
