"""What a plan says it costs, against cells that are planned one by one."""

import io

import pytest
from rich.console import Console

from prune_bench.config import make_experiment
from prune_bench.sweep.cells import expand
from prune_bench.sweep.dry_run import say_time, sharing
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.sweep import prepare
from tests.sweep.test_sweep import TINY


def one_cell(cell):
    """The plan of an experiment with this cell only."""
    words = {
        "methods": {cell.method: TINY["methods"][cell.method]}, "densities": [cell.density],
        "variants": [cell.variant], "seeds": [cell.seed], "prune_at": [cell.prune_at],
    }  # fmt: skip
    return prepare(make_experiment(TINY | words, []))


def test_work_without_sharing_is_the_sum_of_all_cells_planned_alone():
    words = {"seeds": [0, 1], "densities": [0.64, 0.5, 0.3]}
    experiment = make_experiment(TINY | words, [])
    plan = prepare(experiment)
    with_sharing, without = sharing(plan)
    alone = [one_cell(cell) for cell in expand(experiment)]
    assert without == pytest.approx(sum(s.cost for p in alone for s in p.stages.values()))
    assert set(plan.stages) == {key for p in alone for key in p.stages}
    assert with_sharing == pytest.approx(sum({k: s.cost for p in alone for k, s in p.stages.items()}.values()))
    assert with_sharing < without


def test_time_is_the_work_over_the_slots_and_no_less_than_the_longest_chain():
    first = Stage("ranking", "a", {"n": 1}, cost=10.0, method="ltr")
    second = Stage("training", "b", {"n": 2}, {"ranking": first.key}, cost=20.0, method="ltr")
    others = [Stage("training", "c", {"n": n}, cost=30.0, method="snip") for n in range(3, 6)]
    todo = {stage.key: stage for stage in (first, second, *others)}

    def said(slots, rates):
        out = io.StringIO()
        say_time(todo, rates, slots, Console(file=out, width=200), measured=True)
        return out.getvalue()

    assert "0:02:00" in said(1, {"": 1.0})
    assert "0:01:00" in said(2, {"": 1.0})
    assert "0:00:30" in said(100, {"": 1.0})
    assert "0:03:30" in said(1, {"": 1.0, "training snip": 2.0})
    assert said(1, {}) == ""
