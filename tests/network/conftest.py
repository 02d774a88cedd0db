"""Architectures of these tests are slim: their graphs are those of the large ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raydrop import models
from raydrop.models import small


@pytest.fixture(scope="module", autouse=True)
def slim() -> Iterator[None]:
    """Two blocks in each stage of resnet56, fewer channels in vgg16 and mobilenet_v2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "_RESNET56_BLOCKS", 2)
        patch.setattr(small, "_VGG_WIDTHS", (16, 16, 32, 64, 64))
        patch.setitem(models._TORCHVISION_ARGUMENTS, "mobilenet_v2", {"width_mult": 0.25})
        yield
