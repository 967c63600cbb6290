"""Options as frozen dataclasses: one definition is the config keys, the command line and the docs table at once.

A docstring under a field documents it; the types below say what it may hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

from prune_bench.errors import ConfigError

T = TypeVar("T")
Integer = Annotated[int, Strict()]
Positive = Annotated[int, Strict(), Field(gt=0)]
Several = Annotated[int, Strict(), Field(gt=1)]
NonNegative = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
AboveZero = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
ZeroOrMore = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Strict(), Field(ge=0, lt=1)]
Fraction = Annotated[float, Strict(), Field(gt=0, le=1)]
_PLAIN_TYPES = {
    "Integer": "int",
    "Positive": "int >= 1",
    "Several": "int >= 2",
    "NonNegative": "int >= 0",
    "Number": "float",
    "Fraction": "float in (0, 1]",
    "AboveZero": "float > 0",
    "ZeroOrMore": "float >= 0",
    "BelowOne": "float in [0, 1)",
}


def later(default: T) -> T:
    """The default of an option that came when there were results already.

    While the option has this value it is in no key, so that what was computed before is found again. The default must
    therefore do what was done before there was a choice.
    """
    made: T = field(default=default, metadata={"later": True})
    return made


def key_values(options: Any) -> dict[str, Any]:
    """Options as plain values, as far as they belong in a key: without what :func:`later` leaves out.

    Args:
        options: An instance of an options dataclass.
    """
    unsaid = later_defaults(type(options))
    return {name: value for name, value in asdict(options).items() if name not in unsaid or value != unsaid[name]}


def later_defaults(cls: type) -> dict[str, Any]:
    """The options of a dataclass that are left out of keys, and the values at which they are."""
    return {f.name: f.default for f in fields(cls) if f.metadata.get("later")}


def read_options(cls: type[T], values: Mapping[str, Any], key: str) -> T:
    """Builds a frozen options dataclass from plain values.

    Args:
        cls: A keyword-only dataclass, nested ones included.
        values: Option names to values, as YAML gives them.
        key: Where the values stand in the experiment file, for messages.

    Raises:
        ConfigError: An unknown name or a value of the wrong type or range; the first found.
    """
    _check_names(cls, values, key)
    try:
        return _adapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"])]).lstrip(".")
        if first["type"] == "missing":
            raise ConfigError(where, None, "is missing: give it a value") from None
        raise ConfigError(where, first["input"], _reason(first), _allowed(first)) from None


def option_table(cls: type) -> list[dict[str, Any]]:
    """Name, type, default and meaning of every option, from the dataclass and the docstrings under its fields."""
    # pydantic reads docstrings from a class's own source only, so inherited options are asked of their own class.
    properties: dict[str, Any] = {}
    for base in reversed([c for c in cls.__mro__ if is_dataclass(c)]):
        for name, schema in _adapter(base).json_schema().get("properties", {}).items():
            meaning = schema.get("description") or properties.get(name, {}).get("description", "")
            properties[name] = schema | {"description": meaning}
    rows = []
    for f in fields(cls):
        schema = properties[f.name]
        rows.append(
            {
                "name": f.name,
                "type": " | ".join(map(str, schema["enum"])) if "enum" in schema else _plain(str(f.type)),
                "default": schema.get("default"),
                "meaning": " ".join(schema.get("description", "").split()),
            }
        )
    return rows


def _adapter(cls: type[T]) -> TypeAdapter[T]:
    # pydantic reads the docstrings under fields, and refuses unknown keys, only where the class says so.
    if "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)  # type: ignore[attr-defined]
    return TypeAdapter(cls)


def _check_names(cls: type, values: Mapping[str, Any], key: str) -> None:
    known, hints = [f.name for f in fields(cls)], get_type_hints(cls)
    for name in values:
        if name not in known:
            where = f"{key}.{name}".lstrip(".")
            raise ConfigError(where, str(name), f"is an unknown key (its value: {values[name]!r})", allowed=known)
        if is_dataclass(hints[name]) and isinstance(values[name], Mapping):
            _check_names(cast("type", hints[name]), values[name], f"{key}.{name}".lstrip("."))


def _reason(error: Any) -> str:
    message = str(error["msg"])
    return f"cannot be used: {message[0].lower()}{message[1:]}"


def _allowed(error: Any) -> list[str]:
    if error["type"] == "literal_error":
        return re.findall(r"'([^']+)'", error["ctx"]["expected"])
    return []


def _plain(annotation: str) -> str:
    return re.sub(r"\w+", lambda word: _PLAIN_TYPES.get(word[0], word[0]), annotation)
