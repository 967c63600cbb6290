"""Packs: which stages are computed side by side, decided by what the plan holds and by nothing else.

Neighbours change the order of floating-point sums at most, but that can change a bit. So a pack never depends on
timing, and one that was begun is done again with the lanes it had.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
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
        halved_from: The pack that did not fit in memory, of which this is a part; empty for a whole one.
    """

    keys: Pack
    seeds: tuple[int, ...]
    wanted: Pack
    halved_from: Pack = ()

    def halves(self, wanted: Collection[str]) -> list[OpenPack]:
        """The two halves of a pack that does not fit, as far as something is wanted of them."""
        middle, whole = _middle(self.keys), self.halved_from or self.keys
        parts = [
            OpenPack(self.keys[part], self.seeds[part], tuple(k for k in self.keys[part] if k in wanted), whole)
            for part in (slice(middle), slice(middle, None))
        ]
        return [part for part in parts if part.wanted]


def open_packs(packs: list[Pack], todo: Mapping[str, Stage], store: Store) -> list[OpenPack]:
    """The packs that are to be run; each key of ``todo`` is wanted of exactly one.

    A pack of which some lanes were finished before a sweep was cut off is run with all its lanes again, so that the
    rest come out as they would have. One that was halved for want of memory is halved alike, as its finished lanes
    tell. Lanes that another sweep finished in other company are left out.
    """
    found: list[OpenPack] = []
    halved: dict[Pack, list[Pack]] = {}
    left = dict.fromkeys(todo)
    for pack in packs:
        for key in pack if any(k in todo for k in pack) else ():
            begun = _company(key, store) if key not in todo else None
            if begun is None:
                continue
            if begun.halved_from:
                halved.setdefault(begun.halved_from, []).append(begun.keys)
            if wanted := tuple(k for k in begun.keys if k in left):
                found.append(replace(begun, wanted=wanted))
                left = {k: None for k in left if k not in wanted}
    for whole, done in halved.items():
        for part in _undone(whole, done):
            if keys := tuple(k for k in part if k in left):
                found.append(OpenPack(keys, _seeds(keys, todo), keys, whole))
                left = {k: None for k in left if k not in keys}
    rest = [tuple(key for key in pack if key in left) for pack in packs]
    return found + [OpenPack(keys, _seeds(keys, todo), keys) for keys in rest if keys]


def _middle(keys: Pack) -> int:
    return (len(keys) + 1) // 2


def _undone(pack: Pack, done: list[Pack]) -> list[Pack]:
    """The parts that a halved pack has still to be run in, given those that were finished: as large as can be.

    Whatever holds a finished part and is larger did not fit, and was halved.
    """
    if not any(set(pack) & set(part) for part in done):
        return [pack]
    if len(pack) == 1 or pack in done:
        return []
    middle = _middle(pack)
    return _undone(pack[:middle], done) + _undone(pack[middle:], done)


def _seeds(keys: Pack, todo: Mapping[str, Stage]) -> tuple[int, ...]:
    return tuple(todo[key].spec["seed"] for key in keys)


def _company(key: str, store: Store) -> OpenPack | None:
    """The pack a finished stage was computed in; None if it was alone."""
    artifact = store.read(key)
    if artifact is None or "packed" not in artifact.record:
        return None
    keys = tuple(artifact.record["packed"])
    # What was packed before seeds were noted had nothing in common but its data.
    seeds = tuple(artifact.record.get("packed_seeds", range(len(keys))))
    return OpenPack(keys, seeds, (), tuple(artifact.record.get("halved_from", ())))
