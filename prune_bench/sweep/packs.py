"""Packs: which stages are computed side by side, decided by what the plan holds and by nothing else.

Neighbours change the order of floating-point sums at most, but that can change a bit. So a pack never depends on
timing, and one that was begun is done again with the lanes it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise

from prune_bench.sweep.stages import Plan, Stage
from prune_bench.sweep.store import Store

Pack = tuple[str, ...]
"""Keys of stages, a lane each, in their order."""


def make_packs(plan: Plan, size: Callable[[Stage], int]) -> list[Pack]:
    """Every stage in one pack, alone or with others like it, as evenly as can be.

    Stages of a seed stand together: they share their data and, in a search, their dense network.

    Args:
        plan: What is to be done.
        size: The most lanes of a stage's pack.
    """
    packs: list[Pack] = []
    order = sorted(plan.stages.items(), key=lambda item: (item[1].kind, item[1].alike, item[1].spec["seed"]))
    for (_, alike), group in groupby(order, key=lambda item: (item[1].kind, item[1].alike)):
        keys = [key for key, _ in group]
        most = size(plan.stages[keys[0]]) if alike else 1
        count = -(-len(keys) // most)
        bounds = [len(keys) * i // count for i in range(count + 1)]
        packs += [tuple(keys[a:b]) for a, b in pairwise(bounds)]
    return packs


@dataclass(frozen=True)
class OpenPack:
    """A pack that is to be run.

    Attributes:
        keys: All its lanes.
        seeds: Of each lane.
        wanted: The lanes whose outcome is wanted.
    """

    keys: Pack
    seeds: tuple[int, ...]
    wanted: Pack


def open_packs(packs: list[Pack], todo: Mapping[str, Stage], store: Store) -> list[OpenPack]:
    """The packs that are to be run; each key of ``todo`` is wanted of exactly one.

    A pack of which some lanes were finished before a sweep was cut off is run with all its lanes again, so that the
    rest come out as they would have. Lanes that another sweep finished in other company are left out.
    """
    found: list[OpenPack] = []
    left = dict.fromkeys(todo)
    for pack in packs:
        for key in pack if any(k in todo for k in pack) else ():
            begun, seeds = _company(key, store) if key not in todo else ((), ())
            if wanted := tuple(k for k in begun if k in left):
                found.append(OpenPack(begun, seeds, wanted))
                left = {k: None for k in left if k not in wanted}
    rest = [tuple(key for key in pack if key in left) for pack in packs]
    return found + [OpenPack(keys, tuple(todo[key].spec["seed"] for key in keys), keys) for keys in rest if keys]


def _company(key: str, store: Store) -> tuple[Pack, tuple[int, ...]]:
    """The lanes a finished stage was computed with, and their seeds; empty if it was alone."""
    artifact = store.read(key)
    if artifact is None or "packed" not in artifact.record:
        return (), ()
    keys = tuple(artifact.record["packed"])
    # What was packed before seeds were noted had nothing in common but its data.
    return keys, tuple(artifact.record.get("packed_seeds", range(len(keys))))
