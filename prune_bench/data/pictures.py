"""Pictures of whatever mode as RGB of 8 bits, or an error that names the file."""

from __future__ import annotations

import os
import warnings

import numpy as np
from PIL import Image

from prune_bench.errors import DataError

_BITS_TAG = 258
"""TIFF's BitsPerSample."""
_SUSPECT = 2**12


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file, mode RGB; transparency is left out, and palettes and CMYK are translated.

    Pictures of one channel and 9 to 16 bits are scaled to 8 by the bits that the file declares.

    Raises:
        DataError: It cannot be read, or its values have no known range (32 bits, floats, 12 bits declared as 16).
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as opened:
            # Of transparency in palettes; it is left out here anyway.
            warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
            opened.load()
            return _scaled(path, opened) if opened.mode[0] in "IF" else opened.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # PIL's decoders raise what they like: OSError, ValueError, SyntaxError, struct.error
        raise DataError(f"{path} cannot be read as a picture: {type(error).__name__}: {error}") from None


def _scaled(path: str | os.PathLike[str], picture: Image.Image) -> Image.Image:
    values, top = np.asarray(picture), 2 ** _bits(picture) - 1
    low, high = values.min(), values.max()
    if top == 0 or low < 0 or high > top or (top == 2**16 - 1 and 0 < high < _SUSPECT):
        raise DataError(
            f"{path} is of mode {picture.mode}, and its values from {low} to {high} have no range that is known: "
            "convert it to 8 bits first"
        )
    return Image.fromarray(np.rint(values / top * 255).astype(np.uint8)).convert("RGB")


def _bits(picture: Image.Image) -> int:
    """The bits of a value that the file declares; 0 if that is not known."""
    if picture.mode == "F":
        return 0
    declared = getattr(picture, "tag_v2", {}).get(_BITS_TAG, (16,))[0]
    # PIL has scaled a PGM file to 16 bits by its largest value; older ones open 16-bit PNG files as 32 bits.
    if picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        return int(declared) if declared <= 16 else 0
    return 0
