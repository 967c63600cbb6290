"""What a user did wrong, said once and in full: key, value, what is allowed, the nearest spelling."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PruneBenchError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class ConfigError(PruneBenchError, ValueError):
    """A request that cannot be carried out as written.

    Args:
        key: Dotted path of the setting, as it stands in the experiment file (``methods.snip.steps``).
        value: What was found there.
        reason: Why it cannot be used, and how to mend it.
        allowed: The names or values that could stand there; the nearest to ``value`` is suggested.
    """

    def __init__(self, key: str, value: object, reason: str, allowed: Iterable[object] = ()) -> None:
        self.key, self.value, self.reason, self.allowed = key, value, reason, tuple(allowed)
        message = f"{key}: {value!r} {reason}"
        if self.allowed:
            message += f"; allowed: {', '.join(map(str, self.allowed))}"
        if nearest := get_close_matches(str(value), [str(a) for a in self.allowed], n=1, cutoff=0.6):
            message += f". Did you mean {nearest[0]!r}?"
        super().__init__(message)


class DataError(PruneBenchError):
    """A data set that is not there, is not what it should be, or cannot be fetched."""


class DeviceError(PruneBenchError):
    """Devices that fail, so that nothing is left to run on; no stage is at fault."""


def message_of(error: BaseException) -> str:
    """The error's own words, as text that can be written anywhere; a class of a user's own may fail to give any."""
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return "(its message cannot be read)"
