"""A plan as a graph: what of it is missing, what waits for what, and which path is longest."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from prune_bench.sweep.stages import Plan, Stage
from prune_bench.sweep.store import Store

if TYPE_CHECKING:
    from prune_bench.sweep.cells import Cell


def missing_stages(plan: Plan, store: Store) -> dict[str, Stage]:
    """The stages that must be computed: those whose artifact is absent or damaged and that a result still needs."""
    needed: dict[str, Stage] = {}
    stack = list(plan.cells.values())
    seen = set(stack)
    while stack:
        key = stack.pop()
        if store.read(key) is not None:
            continue
        needed[key] = plan.stages[key]
        fresh = [k for k in plan.stages[key].inputs.values() if k not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return {key: stage for key, stage in plan.stages.items() if key in needed}


def narrow(plan: Plan, cells: Collection[Cell]) -> Plan:
    """The part of a plan that these cells need."""
    wanted = {cell: key for cell, key in plan.cells.items() if cell in cells}
    needed = with_inputs(wanted.values(), plan.stages)
    return Plan(wanted, {key: stage for key, stage in plan.stages.items() if key in needed})


def with_inputs(keys: Iterable[str], stages: Mapping[str, Stage]) -> set[str]:
    """These stages and all that they need, near and far."""
    found: set[str] = set()
    stack = list(keys)
    while stack:
        key = stack.pop()
        if key not in found:
            found.add(key)
            stack.extend(stages[key].inputs.values())
    return found


def dependants(key: str, users: Mapping[str, Sequence[str]]) -> set[str]:
    """All stages that need this one, near and far.

    Args:
        key: The stage's.
        users: Result of :func:`users_of`.
    """
    found: set[str] = set()
    stack = list(users[key])
    while stack:
        if (user := stack.pop()) not in found:
            found.add(user)
            stack.extend(users[user])
    return found


def users_of(todo: Mapping[str, Stage]) -> dict[str, list[str]]:
    """For each stage those that read its artifact."""
    users: dict[str, list[str]] = {key: [] for key in todo}
    for key, stage in todo.items():
        for needed in dict.fromkeys(stage.inputs.values()):
            if needed in todo:
                users[needed].append(key)
    return users


def remaining_cost(todo: Mapping[str, Stage], users: Mapping[str, list[str]]) -> dict[str, float]:
    """The dearest path from each stage to an end: the longest chains must start first.

    Args:
        todo: Stages, each after its inputs.
        users: Of :func:`users_of`.
    """
    path: dict[str, float] = {}
    for key in reversed(list(todo)):
        path[key] = todo[key].cost + max((path[user] for user in users[key]), default=0.0)
    # What needs only to be put together goes first: a finished cell must not wait for the rest of the grid.
    return {key: math.inf if todo[key].kind == "result" else cost for key, cost in path.items()}
