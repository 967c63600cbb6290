"""Lightning kept from the environment: schedulers and launchers set variables that it takes for its own.

A Trainer of ours is one process on one device, under every scheduler. Lightning would compare a scheduler's number
of tasks with its own, take a task's number for a rank, requeue a job, and take defaults from ``PL_TRAINER_...``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

_DEFAULTS = "PL_TRAINER_"


class OneProcess(ClusterEnvironment):
    """A world of one process that no variable describes."""

    @property
    def creates_processes_externally(self) -> bool:
        """False: there are no others."""
        return False

    @property
    def main_address(self) -> str:
        """This machine."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """None is open: nobody connects."""
        return 0

    @staticmethod
    def detect() -> bool:
        """True everywhere."""
        return True

    def world_size(self) -> int:
        """One."""
        return 1

    def set_world_size(self, size: int) -> None:
        """Nothing to set."""

    def global_rank(self) -> int:
        """The first."""
        return 0

    def set_global_rank(self, rank: int) -> None:
        """Nothing to set."""

    def local_rank(self) -> int:
        """The first."""
        return 0

    def node_rank(self) -> int:
        """The first."""
        return 0


@contextlib.contextmanager
def no_defaults() -> Iterator[None]:
    """Inside it a Trainer takes no default from the environment (``PL_TRAINER_MAX_STEPS`` and its kind)."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_DEFAULTS)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
