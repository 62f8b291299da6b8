"Reference checks of `recbench.train`."
import torch
from reference_common import Report, same

from recbench.train import schedules


def check_lr_schedules(content: list, report: Report) -> None:
    for i, stored in enumerate(content):
        with report.case(f"{i}_{stored['class']}"):
            schedule = getattr(schedules, stored["class"].removesuffix("LR"))(**stored["kwargs"])
            rates = stored["lr_at_step_0..12"]
            same(
                torch.tensor(
                    [schedule.at(step, stored["base_lr"]) for step in range(len(rates))],
                    dtype=torch.float64,
                ),
                rates,
                "rates",
                atol=1e-9,
            )


CHECKERS = {"lr_schedules*": check_lr_schedules}
