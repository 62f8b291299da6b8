"""What the benchmarks share: CPU time of one thread, contenders taking turns, medians, verdicts."""
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import process_time


def cpu_seconds(call: Callable[[], object]) -> float:
    "CPU time of this process that the call takes."
    start = process_time()
    call()
    return process_time() - start


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call in each round, on one thread.

    Every other round runs backwards, a first one warms up and is dropped.
    """
    import torch
    torch.set_num_threads(1)
    took: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls)[::-1 if turn % 2 else 1]: took[name].append(cpu_seconds(calls[name]))
    return {name: seconds[1:] for name, seconds in took.items()}


def matrix_products(shapes: Sequence[tuple[int, int, int]]) -> Callable[[], None]:
    """A call that multiplies what linear layers multiply in a step, into memory that is already there.

    Forward, gradient of the weights and gradient of the inputs: rows x inputs x outputs, three times.
    """
    import torch
    layers = [
        (torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs))
        for rows, inputs, outputs in shapes
    ]
    results = [tuple(map(torch.empty_like, layer)) for layer in layers]

    def multiply() -> None:
        for (x, weight, gradient), (x_gradient, weight_gradient, y) in zip(layers, results):
            torch.mm(x, weight.T, out=y)
            torch.mm(gradient.T, x, out=weight_gradient)
            torch.mm(gradient, weight, out=x_gradient)
    return multiply


def ratio(took: Mapping[str, list[float]], name: str, other: str) -> float:
    "Median over rounds of `name` over `other`: what slows the machine in a round slows both."
    return median(a / b for a, b in zip(took[name], took[other]))


def verdict(
    name: str,
    value: float,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    kind: str = "ratio",
) -> bool:
    "Print `NAME ratio R (target ...) ok|MISS`; True when the target is met."
    holds = value <= at_most if at_least is None else value >= at_least
    target = f"at most {at_most:.3g}" if at_least is None else f"at least {at_least:.3g}"
    print(f"{name} {kind} {value:.3g} (target {target}) {'ok' if holds else 'MISS'}")
    return holds
