"What every reference check shares: the report, stored tensors, comparisons."
from collections import Counter
from contextlib import contextmanager

import torch
from torch.testing import assert_close

from recbench.matching import absent_cells

SUM_ATOL = 1e-5  # losses and gradients are sums over many float32 terms


class Unsupported(Exception):
    "Raised in a case that recbench does not have, or answers differently on purpose."


class Report:
    "Prints and counts the outcome of each case."

    def __init__(self, stem: str, counts: Counter):
        self.stem, self.counts = stem, counts

    def line(self, outcome: str, name: str, detail: object = "") -> None:
        self.counts[outcome] += 1
        print(
            outcome, "/".join(filter(None, [self.stem, name])).replace(" ", "_"), *str(detail).split()
        )

    @contextmanager
    def case(self, name: str = ""):
        """What happens inside decides.

        Nothing raised is ok, Unsupported is that, anything else is a miss.
        """
        try:yield
        except Unsupported as reason:self.line("unsupported", name, reason)
        except Exception as error:self.line("MISS", name, f"{type(error).__name__}: {error}")
        else: self.line("ok", name)


def tensor(stored: dict | list | float | torch.Tensor | None) -> torch.Tensor | None:
    "A stored tensor or plain numbers; non-finite numbers are stored as strings."
    def numbers(data):
        return (
            [numbers(d) for d in data]
            if isinstance(data, list)
            else float(data) if isinstance(data, str) else data
        )

    if stored is None or isinstance(stored, torch.Tensor): return stored
    if not isinstance(stored, dict): return torch.tensor(numbers(stored))
    return torch.tensor(numbers(stored["data"]), dtype=getattr(torch, stored["dtype"])).reshape(
        stored["shape"]
    )


def same(actual: torch.Tensor, stored, what: str, atol: float = 1e-6) -> None:
    expected = tensor(stored).to(actual.dtype)
    assert_close(
        actual.detach().reshape(expected.shape),
        expected,
        rtol=1e-5,
        atol=atol,
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )


def same_similarity(actual: torch.Tensor, stored, what: str) -> None:
    """Cells without a hard negative hold -1e32 there.

    They must be absent here too, and vanish after a softmax.
    """
    expected = tensor(stored)
    absent = expected < -1e30
    assert torch.equal(absent_cells(actual), absent), f"{what}: other cells are absent"
    same(actual.masked_fill(absent, 0), expected.masked_fill(absent, 0), what)
    same(actual.softmax(1), expected.softmax(1), f"softmax of {what}")
