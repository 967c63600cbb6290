"""Which devices can still be trusted, and which jobs may be tried again, judged by what has died where."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass

from prune_bench.errors import DeviceError
from prune_bench.sweep.executors.device_faults import DeviceFault, Fault

LIVES = 3
"""Times a job is tried when its worker dies; a stage that raises is not tried again."""
_DEATHS = 2  # in a row, with no success between, after which a device is retired


@dataclass(frozen=True)
class _Death:
    job: int
    at_start: bool


class Health:
    """Deaths of workers by their device and by their job.

    A dead device kills whatever comes; a bad job kills its workers wherever it goes. So a device is retired after two
    deaths in a row, and what died of it costs no job a life. Devices on which something has succeeded have more
    credit: there, deaths of a job that died on several such devices do not count, nor do those of one job alone.
    """

    def __init__(self) -> None:
        self._since_success: dict[str, list[_Death]] = defaultdict(list)
        self._died_at: dict[int, set[str]] = defaultdict(set)
        self._proven: set[str] = set()
        self._lives: dict[int, int] = {}
        self.retired: dict[str, str] = {}

    def succeeded(self, place: str) -> None:
        """A device answered: something on it ended, well or not."""
        self._proven.add(place)
        self._since_success[place].clear()

    def died(self, job: int, place: str, death: BrokenExecutor) -> None:
        """A worker died on a device, at work on a job."""
        fault = death.fault if isinstance(death, DeviceFault) else None
        if fault is Fault.ASSERT:
            self._lives[job] = 0
            return
        if fault is not Fault.START:
            self._lives[job] = self.lives(job) - 1
        # A worker on the CPU that dies without a word was killed: by somebody, or for its memory.
        if fault is not None or not place.startswith("cpu"):
            self._blame(job, place, _word(death), at_start=fault is Fault.START)

    def lives(self, job: int) -> int:
        """How often a job may still be tried."""
        return self._lives.get(job, LIVES)

    def last_life(self, job: int) -> None:
        """Has a job be tried once and no more."""
        self._lives[job] = 1

    def avoided(self, job: int) -> set[str]:
        """Devices on which a job has died: it is better tried elsewhere, and they with something else."""
        return self._died_at.get(job, set())

    @property
    def has_deaths(self) -> bool:
        """Whether any job is better tried elsewhere than where it was."""
        return bool(self._died_at)

    def all_gone(self) -> DeviceError:
        """What is told when every device is retired."""
        each = "; ".join(f"{place}: {reason}" for place, reason in self.retired.items())
        return DeviceError(
            f"no device is left to work on; workers died on each, {_DEATHS} in a row: {each}. What is unfinished is "
            "not recorded as failed: mend the devices (nvidia-smi tells more), then the same command goes on"
        )

    def _blame(self, job: int, place: str, reason: str, *, at_start: bool) -> None:
        deaths = self._since_success[place]
        deaths.append(_Death(job, at_start))
        if not at_start:
            self._died_at[job].add(place)
        counted = [death for death in deaths if death.at_start or len(self._died_at[death.job] & self._proven) < 2]
        of_one = len({death.job for death in counted}) == 1 and not any(death.at_start for death in counted)
        if len(counted) >= _DEATHS and not (of_one and place in self._proven):
            self.retired[place] = reason
            self._acquit(deaths, place)

    def _acquit(self, deaths: list[_Death], place: str) -> None:
        for death in deaths:
            if not death.at_start:
                self._lives[death.job] = min(LIVES, self.lives(death.job) + 1)
                self._died_at[death.job].discard(place)


def failure_words(death: BrokenExecutor) -> str:
    """Why a stage failed whose every worker died."""
    if isinstance(death, DeviceFault):
        return str(death) if death.fault is Fault.ASSERT else f"its worker process died {LIVES} times: {death}"
    return f"its worker process died {LIVES} times (out of memory, or killed)"


def _word(death: BrokenExecutor) -> str:
    return str(death) or "a worker process was killed"
