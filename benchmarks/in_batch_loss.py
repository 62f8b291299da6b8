"""Chunked against plain in-batch softmax loss, forward and backward: CPU time of one thread, and extra
peak memory.

    python benchmarks/in_batch_loss.py [--rows 8192] [--width 64] [--rounds 7]

Memory is the highest of one step above what was held before it, each form in a process of its own.
Targets: chunked at most 0.6 of plain's time and a twentieth of its extra memory, with the corrections
too.
"""

import argparse
import subprocess
import sys
from functools import partial
from statistics import median

from _timing import interleaved, ratio, verdict

TIME_TARGET, MEMORY_TARGET = 0.6, 1 / 20
TEMPERATURE = 0.05


def inputs(rows: int, width: int) -> dict:
    "Unit vectors that need gradients, and the ids and counts that corrections read."
    import torch
    generator = torch.Generator().manual_seed(0)
    user, item = (
        torch.nn.functional.normalize(torch.randn(rows, width, generator=generator)).requires_grad_()
        for _ in range(2)
    )
    items = torch.randint(0, 20 * rows, (rows,), generator=generator)
    return {"user": user, "item": item, "items": items, "log_q": torch.randn(rows, generator=generator)}


def plain(user, item, **_):
    import torch
    similarity = user @ item.T / TEMPERATURE
    return torch.nn.functional.cross_entropy(similarity, torch.arange(len(user)))


def chunked(user, item, **_):
    from recbench.matching.chunked import chunked_in_batch_cross_entropy
    return chunked_in_batch_cross_entropy(user, item, TEMPERATURE)


def corrected(user, item, items, log_q):
    from recbench.matching.chunked import chunked_in_batch_cross_entropy
    return chunked_in_batch_cross_entropy(
        user, item, TEMPERATURE, log_q=log_q, row_items=items, column_items=items
    )


FORMS = {"plain": plain, "chunked": chunked, "chunked, logQ and mask": corrected}


def step(form: str, batch: dict) -> float:
    "One forward and backward pass; the loss."
    batch["user"].grad = batch["item"].grad = None
    loss = FORMS[form](**batch)
    loss.backward()
    return float(loss.detach())


def times(rows: int, width: int, rounds: int) -> dict[str, list[float]]:
    "CPU seconds of each form in each round, one thread, forms taken in turn."
    batch = inputs(rows, width)
    losses = {form: step(form, batch) for form in FORMS}
    assert abs(losses["plain"] - losses["chunked"]) < 1e-5 * abs(losses["plain"]), losses
    return interleaved({form: partial(step, form, batch) for form in FORMS}, rounds)


def status(field: str) -> int:
    "A size of this process in kB: VmRSS now, VmHWM at its highest."
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))


def print_memory(form: str, rows: int, width: int) -> None:
    "In a process of its own: highest memory of one step above the memory held before it, in MB."
    import torch
    torch.set_num_threads(1)
    step(form, inputs(64, width))
    batch = inputs(rows, width)
    before = status("VmRSS")
    step(form, batch)
    print((status("VmHWM") - before) / 1024)


def memory(form: str, rows: int, width: int) -> float:
    "Extra megabytes of one step, measured in a fresh process."
    command = [
        sys.executable,
        __file__,
        "--rows",
        str(rows),
        "--width",
        str(width),
        "--memory-of",
        form,
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of: return print_memory(args.memory_of, args.rows, args.width)
    megabytes = {form: memory(form, args.rows, args.width) for form in FORMS}
    seconds = times(args.rows, args.width, args.rounds)
    print(f"in-batch softmax, forward + backward, B={args.rows}, D={args.width}")
    for form in FORMS:
        print(
            f"  {form:24s} {1000 * median(seconds[form]):8.1f} ms CPU, {megabytes[form]:8.1f} MB extra"
        )
    for form in list(FORMS)[1:]:
        verdict(f"{form} / plain, time:", ratio(seconds, form, "plain"), at_most=TIME_TARGET)
        verdict(f"{form} / plain, memory:", megabytes[form] / megabytes["plain"], at_most=MEMORY_TARGET)


if __name__ == "__main__":
    main()
