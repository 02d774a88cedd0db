"""Opening image files that anybody may have made: the one place where Pillow meets a file."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from raydrop.errors import DataError, visible
from raydrop.files import open_regular

FORMATS = (
    *("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"),
    *(("AVIF",) if importlib.util.find_spec("PIL.AvifImagePlugin") else ()),
)
"""What a file may be, whatever its name ends in. Of Pillow's other formats one runs Ghostscript on
what it finds, and few are what a data set is made of."""


class UnreadableImageError(DataError):
    """A file that should be an image cannot be read as one; others may be like it."""


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[PIL.Image.Image]:
    """Open an image file: its size and mode are known at once, pixels are decoded when asked for.

    To be used in a ``with`` that only reads the image, since what goes wrong there is taken for a
    fault of the file.

    Raises:
        DataError: If it is no regular file or no image of :data:`FORMATS`, has more pixels
            than twice ``PIL.Image.MAX_IMAGE_PIXELS``, or cannot be decoded; the message names it.
    """
    try:
        with open_regular(path) as file:
            with warnings.catch_warnings():
                # Photos have as many; what may fill the memory, twice that, is an error.
                warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
                image = PIL.Image.open(file, formats=FORMATS)
            with image:
                yield image
    except DataError:
        raise
    # Broken files make PIL's decoders raise nearly anything: OSError, SyntaxError, EOFError...
    except Exception as error:
        raise unreadable_image(path, error) from error


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
