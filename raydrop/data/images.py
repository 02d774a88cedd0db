"""Opening image files that anybody may have made: the one place where Pillow meets a file.

Whatever a file's mode is, it becomes grey or RGB as its format says, or is refused by name:

* grey of 9 to 16 bits keeps its upper eight: 65,535 becomes 255, and of a TIFF of 12 bits 4,095.
  Stretching each image to its own range would make brightness incomparable, and Pillow does the
  same to 16-bit colours. Data that leave the upper bits unused are to be scaled beforehand;
* integers of 32 bits and floats are refused: no file says what their black and white are;
* transparency is left out, premultiplied colours are divided by it; CMYK, YCbCr, HSV and LAB become
  sRGB; palettes are looked up;
* of several pictures in a file the first is taken.

A photo whose EXIF data say that it lies on its side is turned. That enters the fingerprint, so it
is looked for once, when data are listed (:func:`survey`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from raydrop.errors import DataError, visible
from raydrop.store.files import open_regular

FORMATS = (
    *("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"),
    *(("AVIF",) if importlib.util.find_spec("PIL.AvifImagePlugin") else ()),
)
"""What a file may be, whatever its name ends in. Of Pillow's other formats one runs Ghostscript on
what it finds, and few are what a data set is made of."""

TURNED, DEEP, SEVERAL = 0x0F, 0x10, 0x20
"""What :func:`survey` says of a file: bits of its EXIF orientation, 1 to 8, whether it is grey of
more than eight bits, and whether there are several pictures in it."""

_PIXELS_PER_BYTE = 100
"""More than ten are rare in photos; a bomb has thousands."""
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""What puts an image upright, by its EXIF orientation."""
_ORIENTATION, _PHOTOMETRIC, _BITS = 0x0112, 0x0106, 0x0102
_WIDE = ("I;16", "I;16B", "I;16L", "I;16N")
_THREADS = 8
_SLICE = 256
_LOOKED_AT = 2**16
_ASK_PILLOW = 0


class UnreadableImageError(DataError):
    """A file that should be an image cannot be read as one; others may be like it."""


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[PIL.Image.Image]:
    """Open an image file: its size and mode are known at once, pixels are decoded when asked for.

    To be used in a ``with`` that only reads the image, since what goes wrong there is taken for a
    fault of the file.

    Raises:
        DataError: If it is no regular file or no image of :data:`FORMATS`, has so many pixels for
            its bytes that it must be a bomb, or cannot be decoded; the message names it.
    """
    try:
        with open_regular(path) as file:
            with warnings.catch_warnings():
                # Of damaged EXIF data, which matter to nobody, and of pixels, asked about below.
                warnings.simplefilter("ignore")
                image = PIL.Image.open(file, formats=FORMATS)
            pixels, size = image.width * image.height, os.fstat(file.fileno()).st_size
            if pixels > max(PIL.Image.MAX_IMAGE_PIXELS or pixels, _PIXELS_PER_BYTE * size):
                raise PIL.Image.DecompressionBombError(f"{pixels} pixels in {size} bytes")
            with image:
                yield image
    except DataError:
        raise
    # Broken files make PIL's decoders raise nearly anything: OSError, SyntaxError, EOFError...
    except Exception as error:
        raise unreadable_image(path, error) from error


def read_image(path: str | Path, mode: str, orientation: int = 1) -> PIL.Image.Image:
    """Return an image in its own size, in ``"RGB"`` or ``"L"``, put upright by its orientation."""
    with open_image(path) as image:
        plain = as_mode(image, mode)
        return plain.transpose(_TURNS[orientation]) if orientation in _TURNS else plain


def is_grey(image: PIL.Image.Image) -> bool:
    """Return whether an image is grey and nothing else, of up to 16 bits."""
    return image.mode == "L" or _grey_bits(image) > 8


def survey(files: Sequence[tuple[str, int]]) -> NDArray[np.uint8]:
    """Return what some files say of themselves, (n,): see :data:`TURNED`.

    Of each path and size in bytes. Their first and, but for JPEG, last 64 KiB are looked at, where
    cameras and programs put it. Only what is seen here counts, so the answer is the same anywhere.

    Raises:
        DataError: If a file cannot be read or is refused by its mode; the message names it.
    """
    slices = [files[at : at + _SLICE] for at in range(0, len(files), _SLICE)]
    # Threads wait for slow disks and networks together; from the cache one is as fast.
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda part: [_said(*file) for file in part], slices)
        said = [word for part in parts for word in part]
    for at, word in enumerate(said):
        if word == _ASK_PILLOW:
            said[at] = _asked(files[at][0])
    return np.array(said, np.uint8)


def unreadable_image(path: str | Path, why: Exception | str) -> UnreadableImageError:
    """Build the error for a file that should be an image."""
    if isinstance(why, PIL.UnidentifiedImageError):
        reason = f"no image format of {', '.join(FORMATS)}"
    else:
        reason = getattr(why, "strerror", None) or str(why) or type(why).__name__
    return UnreadableImageError(
        f"Expected a readable image in {visible(path)}, found: {visible(reason).rstrip('.')}; "
        "replace or remove that file."
    )


def as_mode(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Return an image in RGB or grey, or raise a ValueError for numbers without a range."""
    bits = _grey_bits(image)
    image.load()
    if bits > 8:
        values = np.asarray(image) >> (bits - 8)
        if _tag(image, _PHOTOMETRIC) == 0:  # white is 0, which Pillow minds up to eight bits
            values = 255 - values
        image = PIL.Image.fromarray(values.astype(np.uint8))
    elif image.mode in ("I", "F", "LAB", "La", "RGBa"):
        _refuse_numbers(image)
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGB"))
    elif image.mode == "P" and "transparency" in image.info:
        # Straight from palette to RGB, Pillow warns that it loses the transparency.
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _grey_bits(image: PIL.Image.Image) -> int:
    """Return how many bits grey values of more than eight have, or 0 where there are none."""
    if image.mode in _WIDE:
        return 12 if _tag(image, _BITS) == 12 else 16
    # What older Pillows make of PNG, and all of them of PGM, where they have scaled it.
    return 16 if image.mode == "I" and image.format in ("PNG", "PPM") else 0


def _refuse_numbers(image: PIL.Image.Image) -> None:
    if image.mode in ("I", "F"):
        kind = "whole numbers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"{kind} (mode {image.mode}) without a range instead of 8 or 16 bits")


def _tag(image: PIL.Image.Image, number: int) -> int | None:
    """Return the value of a TIFF's tag, or None where the file is none or has no such tag."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _said(path: str, size: int) -> int:
    """Return what a file says of itself, as far as that needs no decoder."""
    try:
        # Bounded reads without waiting, so anything may be there; twice as fast as a file object.
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            head = os.pread(number, _LOOKED_AT, 0)
            if head.startswith(b"\xff\xd8"):
                asked = b"Exif\0\0" in head or b"rientation" in head
                return _ASK_PILLOW if asked else 1
            if size > _LOOKED_AT:
                head += os.pread(number, _LOOKED_AT, size - min(_LOOKED_AT, size - _LOOKED_AT))
        finally:
            os.close(number)
    except OSError as error:
        raise unreadable_image(path, error) from error
    if head.startswith((b"II", b"MM", b"GIF8", b"P2", b"P5", b"Pf")):
        return _ASK_PILLOW
    if head[4:8] == b"ftyp":
        turned = any(word in head for word in (b"irot", b"imir", b"Exif"))
        return _ASK_PILLOW if turned or head[8:12] == b"avis" else 1
    if head[8:16] == b"WEBPVP8X":  # with flags: XMP, EXIF, animation
        return _ASK_PILLOW if head[20] & 0x0E else 1
    if head.startswith(b"\x89PNG"):
        if any(word in head for word in (b"eXIf", b"Raw profile type exif", b"rientation")):
            return _ASK_PILLOW
        deep = head[24:26] == b"\x10\0"  # 16 bits, grey without transparency
        return 1 | DEEP * deep | SEVERAL * (b"acTL" in head)
    return 1


def _asked(path: str) -> int:
    """Return what a file says of itself, according to Pillow."""
    with open_image(path) as image:
        if not _grey_bits(image):
            _refuse_numbers(image)
        several = getattr(image, "is_animated", False) and image.format != "MPO"
        said = DEEP * (_grey_bits(image) > 8) | SEVERAL * several
        orientation = 1
        # A TIFF is turned by Pillow itself. Data that no one can read turn nothing.
        if image.format != "TIFF":
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore")
                orientation = image.getexif().get(_ORIENTATION, 1)
        return said | (orientation if orientation in _TURNS else 1)
