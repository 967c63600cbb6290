"""Experiments that may have come from elsewhere, read as plain values that nothing of this machine is put into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from prune_bench.errors import ConfigError

_LARGEST = 1_000_000  # bytes
_DEEPEST = 50


def read_run_values(path: Path) -> dict[str, Any]:
    """The experiment of a run's folder as plain values.

    Raises:
        ConfigError: See :func:`plain_values`; or it is not there.
    """
    try:
        with open(path, "rb") as file:
            return plain_values(file.read(_LARGEST + 1), str(path))
    except OSError as error:
        raise ConfigError("experiment", str(path), f"cannot be read: {error}") from None


def plain_values(text: bytes, name: str) -> dict[str, Any]:
    """An experiment that came from elsewhere as plain values.

    Args:
        text: YAML as a sweep writes it.
        name: What it is called in messages.

    Raises:
        ConfigError: It is no mapping, larger than any experiment, or holds what no sweep writes: interpolations,
            which would read the environment, or anchors, by which a line grows to gigabytes.
    """
    try:
        if len(text) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        words = text.decode()
        _check_tokens(words)
        values = OmegaConf.to_container(OmegaConf.create(words), throw_on_missing=True)
        if not isinstance(values, dict) or not values:
            raise ValueError("it is not a YAML mapping of keys to values")
        if "${" in repr(values):
            raise ValueError("it holds an interpolation ${...}, which would be filled in from this machine")
    except Exception as error:  # yaml's and omegaconf's errors share no base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError("experiment", name, f"cannot be read: {reason}") from None
    values.setdefault("name", "imported")
    return {str(key): value for key, value in values.items()}


def _check_tokens(words: str) -> None:
    """Raises ValueError for anchors, and for a depth at which YAML's own scanner takes minutes."""
    depth = 0
    for token in yaml.scan(words):
        if isinstance(token, (yaml.AliasToken, yaml.AnchorToken)):
            raise ValueError("it holds YAML anchors")
        name = type(token).__name__
        depth += name.endswith("StartToken") - name.endswith("EndToken")
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
