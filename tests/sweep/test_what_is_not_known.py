"""A sweep over networks of one's own: a tie is marked, and what is not known is no number."""

import csv
import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

import prune_bench as pb
from prune_bench.config import make_experiment
from prune_bench.models.registry import models
from prune_bench.pruners.base import NoOptions
from prune_bench.report.results import read_records
from prune_bench.report.table import markdown_table
from prune_bench.sweep import sweep
from prune_bench.sweep.compute import _tied
from prune_bench.sweep.run_folder import run_store
from prune_bench.sweep.stages import Stage
from tests.sweep.test_sweep import TINY


class Odd(nn.Module):
    """Reads its data on the way, and puts out the same whatever its weights are."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 6), nn.Linear(6, classes)

    def forward(self, x):
        x = self.first(x.flatten(1))
        if x.abs().max().item() > 1e30:
            raise OverflowError
        return 0 * self.last(torch.relu(x))


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    @models.add("odd", options=NoOptions, source="test", summary="Odd.")
    def build(options, *, in_channels, image_size, num_classes):
        return Odd(in_channels * image_size**2, num_classes)

    folder, out = tmp_path_factory.mktemp("odd") / "run", io.StringIO()
    base = {**TINY, "model": {"name": "odd"}, "methods": {"dense": {}, "snip": {}, "magnitude": {}}}
    base |= {"prune_at": ["init"], "variants": ["original"], "densities": [0.5]}
    code = sweep.run_sweep(make_experiment(base, [f"output={folder}"]), Console(file=out, width=160))
    yield folder, code, out.getvalue()
    del models._entries["odd"]


def test_the_sweep_ends_well_and_says_both(odd):
    folder, code, words = odd
    assert code == 0, words
    table = markdown_table(pb.load_results(folder)).splitlines()
    snip, magnitude = (next(line for line in table if f"| {name}" in line) for name in ("snip", "magnitude"))
    assert "| snip † |" in snip
    assert "| magnitude |" in magnitude
    assert "†" in words
    assert all(line.split("|")[-4].strip() == "–" for line in (snip, magnitude))  # effective


def test_what_is_not_known_is_null_and_a_tie_is_a_number(odd):
    records = {record["cell"]["method"]: record["metrics"] for record in read_records(odd[0])}
    assert all(metrics["effective_density"] is None for metrics in records.values())
    assert all(metrics["collapsed"] is None for metrics in records.values())
    total = records["snip"]["total"]
    assert {method: metrics["search/tied"] for method, metrics in records.items()} == {
        "dense": 0, "snip": total, "magnitude": 0,
    }  # fmt: skip
    json.loads(json.dumps(records, allow_nan=False))
    with open(odd[0] / "results.csv") as file:
        assert {row["effective_density"] for row in csv.DictReader(file)} == {""}


def test_the_stages_log_says_why(odd):
    logs = "\n".join(path.read_text() for path in odd[0].rglob("ticket-*.log"))
    assert "effective density of Odd not known" in logs
    assert "snip at density 0.5: the cut falls among" in logs


def test_a_ranking_of_an_earlier_version_is_read(odd):
    """It has no ties in its record: the metric is then missing, and nothing else."""
    store = run_store(odd[0])
    artifacts = [store.read(path.stem) for path in odd[0].rglob("ranking-*.log")]
    assert len(artifacts) == 3
    for artifact in artifacts:
        assert artifact is not None
        del artifact.record["ties"]
        assert _tied(Stage("ticket", "", {"density": 0.5, "variant": "original"}), artifact, None) == {}
