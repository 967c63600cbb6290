"""Writes docs/methods.md: what each method computes, from the docstrings and options the code itself uses."""

from __future__ import annotations

import inspect
from pathlib import Path

from prune_bench.options import option_table
from prune_bench.pruners import pruners
from prune_bench.variants import MEANINGS

HEAD = """# Methods

Written by `make docs` from the code: formulas stand in the docstrings, options in the dataclasses.

A ticket keeps exactly round(density x N) of the N prunable weights (the weights of convolutions and linear layers).
Weights are ranked by a stable sort, so ties are broken by module order. `w` are the weights at the pruning point,
`L` the cross-entropy, `H` its Hessian, `m` the mask, `f` the network's outputs.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for entry in pruners.values():
        parts.append(
            f"## `{entry.name}`\n\n{entry.summary} Source: {entry.source}.\n\n{inspect.getdoc(entry.build)}\n"
        )
        if rows := option_table(entry.options):
            parts.append("| option | type | default | meaning |\n| --- | --- | --- | --- |")
            cells = (
                f"| `{r['name']}` | {r['type']} | `{r['default']}` | {r['meaning']} |".replace(" | None", " or null")
                for r in rows
            )
            parts.append("\n".join(cells) + "\n")
    variants = "\n".join(f"- `{name}`: {meaning}" for name, meaning in MEANINGS.items())
    return "\n".join([*parts, f"## Sanity variants\n\n{variants}\n"])


if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(page())
