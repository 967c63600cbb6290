"""Several devices that share a stage: a sum over them, and a training."""

from __future__ import annotations

from collections.abc import Iterator

from prune_bench.doctor.lines import Line, Subject
from prune_bench.doctor.stages import run_stages
from prune_bench.sweep.executors.ranks import RankDied, RankError, launch


def look(subject: Subject) -> Iterator[Line]:
    """The sum, then two epochs of training; ``subject.device`` names the devices, joined by ``+``."""
    devices = subject.device.split("+")
    try:
        launch(add_up, devices)
    except (RankError, RankDied) as error:
        words = f"{subject.device} cannot add up ({error}): keep devices.per_cell at 1"
        yield Line(name="ranks", verdict="mend", words=words)
        return
    yield Line(name="ranks", verdict="pass", words=f"{subject.device} add up right")
    yield from run_stages(subject, subject.device, name="ranks", kinds=("state",))


def add_up(device: str) -> None:
    """In each rank: sums a tensor over all.

    Raises:
        ArithmeticError: The sum is wrong.
    """
    import torch

    from prune_bench.parallel import rank, ranks, sum_

    own = torch.arange(1000.0, device=device) * (rank() + 1)
    sum_([own])
    wanted = torch.arange(1000.0) * (ranks() * (ranks() + 1) / 2)
    if not torch.equal(own.cpu(), wanted):
        raise ArithmeticError(f"the sum over {ranks()} ranks is wrong")
