"""What the files of a run's folder may hold. Others may have written them, so all are read through these shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from prune_bench.sweep.progress import Snapshot
from prune_bench.untrusted import is_plain

_OPEN = ConfigDict(extra="allow", strict=True)  # a later version may say more


def _one_line(words: str) -> str:
    if not words or not is_plain(words):
        raise ValueError("must be words of one line")
    return words


Word = Annotated[str, AfterValidator(_one_line)]
Scalar = str | int | float | bool | None
Density = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Key = Annotated[str, Field(pattern=r"^result-[0-9a-f]{32}$")]
TicketKey = Annotated[str, Field(pattern=r"^ticket-[0-9a-f]{32}$")]


class CellRecord(TypedDict):
    """A cell of the grid."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    model: Word
    data: Word
    prune_at: Word
    method: Word
    density: Density
    variant: Word
    seed: Annotated[int, Field(ge=0)]


class Row(TypedDict):
    """A cell of a run: ``reason`` if it has failed, ``ticket`` and ``recipe`` where the run's version kept them."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cell: CellRecord
    key: Key
    reason: NotRequired[str]
    ticket: NotRequired[TicketKey]
    recipe: NotRequired[Word]


class Cells(TypedDict):
    """``cells.json``."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    store: str
    rows: list[Row]
    plan: NotRequired[str]
    earlier: NotRequired[list[Row]]


class ResultRecord(TypedDict):
    """The record of a result's artifact."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cell: CellRecord
    status: Literal["done", "diverged"]
    reason: NotRequired[str]
    method: NotRequired[str]
    options: NotRequired[dict[str, Any]]
    metrics: dict[Word, Scalar]
    curves: list[dict[Word, Scalar]]
    layers: list[dict[Word, Scalar]]
    made_by: dict[Word, Scalar]


class HistoryEntry(TypedDict):
    """A sweep that computed something."""

    when: str
    command: str
    version: str
    commit: str


class _Process(TypedDict):
    host: str
    pid: int
    began: float


class StatusRecord(TypedDict):
    """``status/*.json``."""

    process: _Process
    snapshot: Snapshot


CELLS = TypeAdapter(Cells)
RESULT = TypeAdapter(ResultRecord)
HISTORY = TypeAdapter(list[HistoryEntry])
STATUS = TypeAdapter(StatusRecord)
RATES = TypeAdapter(dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]])
KEYS = TypeAdapter(list[Key | TicketKey])
