"""Pairwise losses against their plain B x B form, forward and backward: CPU time of one thread, and
extra peak memory.

    python benchmarks/pairwise_losses.py [--rows 4096] [--session 10] [--rounds 7] [--large 65536]

One row in five is clicked. Plain makes all B x B differences and selects the pairs among them. Memory
is the highest of one step above what was held before it, each form in a process of its own. Targets:
logistic and focal at most a tenth of plain's time, hinge too, and less than 20 MB extra each. Then a
large batch, in sessions and as a single session, which plain cannot hold: time and number of pairs, no
target.
"""

import argparse
import subprocess
import sys
from functools import partial
from statistics import median

from _timing import cpu_seconds, interleaved, ratio, verdict
from in_batch_loss import status

TIME_TARGET, MEMORY_TARGET = 0.1, 20.0


def inputs(rows: int, session: int) -> dict:
    """Scores that need a gradient, clicks, a teacher's scores and shuffled session ids.

    `session` 0 makes the batch one session.
    """
    import torch
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, rows, generator=generator)
    ids = (
        torch.randint(0, max(1, rows // session), (rows,), generator=generator)
        if session
        else torch.zeros(rows, dtype=torch.int64)
    )
    return {
        "logits": logits.requires_grad_(),
        "clicks": (torch.rand(rows, generator=generator) < 0.2).long(),
        "teacher": teacher,
        "ids": ids,
    }


def plain(terms, labels: str, batch: dict):
    "The mean of `terms` of the pairs, selected from the matrix of differences."
    logits, label, ids = batch["logits"], batch[labels], batch["ids"]
    is_pair = (label[:, None] > label) & (ids[:, None] == ids)
    return terms((logits[:, None] - logits)[is_pair], (label[:, None] - label)[is_pair]).mean()


def plain_terms(name: str):
    import torch
    from torch.nn.functional import softplus
    return {
        "logistic": lambda d, _: softplus(-d),
        "focal": lambda d, _: torch.sigmoid(-d) ** 2 * softplus(-d),
        "hinge": lambda d, _: torch.relu(1 - d),
        "hinge, label margin": lambda d, apart: torch.relu(apart - d),
    }[name]


def ours(name: str):
    from recbench.losses.pairwise import PairwiseLogisticLoss
    from recbench.losses.pairwise_focal import PairwiseFocalLoss
    from recbench.losses.pairwise_hinge import PairwiseHingeLoss
    return {
        "logistic": PairwiseLogisticLoss(),
        "focal": PairwiseFocalLoss(),
        "hinge": PairwiseHingeLoss(use_label_margin=False),
        "hinge, label margin": PairwiseHingeLoss(),
    }[name]


LOSSES = {"logistic": "clicks", "focal": "clicks", "hinge": "clicks", "hinge, label margin": "teacher"}
FORMS = [f"{form}{name}" for name in LOSSES for form in ("", "plain ")]


def step(form: str, batch: dict) -> float:
    "One forward and backward pass; the loss."
    name = form.removeprefix("plain ")
    batch["logits"].grad = None
    loss = (
        plain(plain_terms(name), LOSSES[name], batch)
        if form != name
        else ours(name)(batch["logits"], batch[LOSSES[name]], session_ids=batch["ids"])
    )
    loss.backward()
    return float(loss.detach())


def times(rows: int, session: int, rounds: int) -> dict[str, list[float]]:
    "CPU seconds of each form in each round, one thread, forms taken in turn."
    batch = inputs(rows, session)
    losses = {form: step(form, batch) for form in FORMS}
    for name in LOSSES:
        assert abs(losses[name] - losses[f"plain {name}"]) < 1e-5 * losses[name], (name, losses)
    return interleaved({form: partial(step, form, batch) for form in FORMS}, rounds)


def print_cost(form: str, rows: int, session: int) -> None:
    """In a process of its own.

    CPU seconds of one step, and its highest memory above the memory held before it, in MB.
    """
    import torch
    torch.set_num_threads(1)
    step(form, inputs(64, session))
    batch = inputs(rows, session)
    before = status("VmRSS")
    seconds = cpu_seconds(partial(step, form, batch))
    print(seconds, max(0, status("VmHWM") - before) / 1024)


def cost(form: str, rows: int, session: int) -> tuple[float, float]:
    "CPU seconds and extra megabytes of one step, measured in a fresh process."
    command = [
        sys.executable,
        __file__,
        "--rows",
        str(rows),
        "--session",
        str(session),
        "--cost-of",
        form,
    ]
    seconds, megabytes = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    return float(seconds), float(megabytes)


def pairs(batch: dict, labels: str) -> int:
    from recbench.losses.sessions import rows_below
    return int(rows_below(batch[labels], batch["ids"]).count.sum())


def print_large(rows: int, session: int, names: list[str]) -> None:
    "Cost of one step of each loss over a batch whose matrix would not fit."
    batch = inputs(rows, session)
    print(
        f"B={rows}, "
        + (f"about {session} rows a session" if session else "one session")
        + f": {pairs(batch, 'clicks'):,} pairs by clicks, {pairs(batch, 'teacher'):,} by the teacher"
    )
    for name in names:
        seconds, megabytes = cost(name, rows, session)
        print(f"  {name:24s} {seconds:8.3f} s CPU, {megabytes:8.1f} MB extra")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--session", type=int, default=10, help="rows a session, on average")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large", type=int, default=65536, help="rows of the large batch, 0 for none")
    parser.add_argument("--cost-of", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cost_of: return print_cost(args.cost_of, args.rows, args.session)
    megabytes = {form: cost(form, args.rows, args.session)[1] for form in FORMS}
    seconds = times(args.rows, args.session, args.rounds)
    print(
        f"pairwise losses, forward + backward, B={args.rows}, about {args.session} rows a session, "
        f"{pairs(inputs(args.rows, args.session), 'clicks'):,} pairs by clicks"
    )
    for form in FORMS:
        print(
            f"  {form:24s} {1000 * median(seconds[form]):8.1f} ms CPU, {megabytes[form]:8.1f} MB extra"
        )
    for name in LOSSES:
        verdict(f"{name} / plain, time:", ratio(seconds, name, f"plain {name}"), at_most=TIME_TARGET)
        verdict(f"{name}, memory:", megabytes[name], at_most=MEMORY_TARGET, kind="MB")
    if args.large:
        print_large(args.large, args.session, list(LOSSES))
        print_large(args.large, 0, ["logistic", "hinge", "hinge, label margin"])


if __name__ == "__main__":
    main()
