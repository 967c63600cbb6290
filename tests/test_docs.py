"""The snippets of docs/bring-your-own.md run, in order, in one namespace."""

import re
from pathlib import Path

import pytest
import torch

import prune_bench as pb
from prune_bench.data import datasets, load_data
from prune_bench.models import build_model, models
from prune_bench.randomness import generator

PAGE = Path(pb.__file__).parents[1] / "docs" / "bring-your-own.md"


@pytest.mark.filterwarnings("ignore:without data the input's shape")
def test_every_snippet_runs_and_what_it_registers_works(monkeypatch, capsys):
    for registry in (models, datasets):
        list(registry)
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 6
    torch.manual_seed(0)
    names = {"__name__": "page"}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert "use labels - 1" in capsys.readouterr().out
    data = load_data("noise", {}, 0)
    made = build_model("tall", {}, input_shape=data.input_shape, num_classes=4, generator=generator(0, "t"))
    x, y = next(data.epoch(0, 32, augment=True))
    assert made(x).shape == (32, 4) and y.shape == (32,)
    assert -1.8 < float(x.min()) < -1.5 and 1.5 < float(x.max()) < 1.8
