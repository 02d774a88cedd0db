"""Image files of every kind: what they become, which way up they are, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
from numpy.typing import NDArray

from raydrop.data import FileImages, LabelledDataset, load_dataset
from raydrop.errors import DataError

ORIENTATION = 0x0112


def opened(path: Path, mode: str = "RGB") -> NDArray[np.uint8]:
    """Return the pixels of a file as they are read, (H, W, 3) or (H, W)."""
    return np.asarray(FileImages((path.name,), str(path.parent), mode).open(0))  # type: ignore[arg-type]


def folder_of(root: Path, content: dict[str, bytes], beside: bytes | None = None) -> Path:
    """Write files below ``train/cat``, and what else a data set needs, of 6 x 4 pixels."""
    if beside is None:
        beside = png(np.zeros((4, 6, 3), np.uint8))
    for split, count in (("train", 1), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for at in range(count):
                (root / split / name / f"z{at}.png").write_bytes(beside)
    for name, each in content.items():
        (root / "train/cat" / name).write_bytes(each)
    return root


def png(pixels: NDArray[np.generic]) -> bytes:
    return encoded(PIL.Image.fromarray(pixels), "PNG")


def encoded(image: PIL.Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def load(root: Path) -> LabelledDataset:
    return load_dataset(f"imagefolder:{root}")


def remarks(root: Path) -> str:
    return " ".join(load(root).remarks)


# What may be an image.


def test_postscript_is_no_image_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    ghostscript = tmp_path / "bin/gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    path = tmp_path / "0.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match=r"0\.png, found: no image format of PNG, .*; replace or"):
        opened(path)
    assert not started.exists()


@pytest.mark.parametrize("kind", ["TGA", "SGI", "PCX", "ICO", "DDS", "PDF", "EPS", "JPEG2000"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "0.png"
    path.write_bytes(encoded(PIL.Image.new("RGB", (16, 16)), kind))
    with pytest.raises(DataError, match="found: no image format of PNG"):
        opened(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF"])
def test_formats_are_known_by_their_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "0.jpg"
    path.write_bytes(encoded(PIL.Image.new("RGB", (16, 16), (200, 200, 200)), kind))
    assert np.abs(opened(path).astype(int) - 200).max() <= 3


@pytest.mark.parametrize("where", ["read", "listed"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, what: str, where: str) -> None:
    path = folder_of(tmp_path, {}) / "train/cat/a.png"
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"a\.png, found: a (pipe or )?{what}"):
        opened(path) if where == "read" else load(tmp_path)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that claims to have so many pixels, none of which are in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    folder_of(tmp_path, {"bomb.png": bomb(*size)})
    for read in (lambda: load(tmp_path), lambda: opened(tmp_path / "train/cat/bomb.png")):
        with pytest.raises(DataError, match=r"cat/bomb\.png, found: .*pixels") as caught:
            read()
        assert "\n" not in str(caught.value)


# Modes.

RAMP = np.array([[0, 255, 256, 4095], [32768, 65279, 65280, 65535]], np.uint16)


def tiff(
    values: NDArray[np.generic], order: Literal["<", ">"] = "<", bits: int = 16, **tags: int
) -> bytes:
    """Return a TIFF of one strip of grey values, written by hand."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        data = packed(values)
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height}
    entries |= {279: len(data)} | {int(tag.removeprefix("t")): v for tag, v in tags.items()}
    start = 8 + 2 + 12 * len(entries) + 4
    entries[273] = start
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    head += struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        head += struct.pack(
            f"{order}HHIHH" if order == ">" else "<HHII", tag, 3, 1, value, *[0] * (order == ">")
        )
    return head + struct.pack(f"{order}I", 0) + data


def packed(values: NDArray[np.generic]) -> bytes:
    """Return rows of 12-bit values without gaps."""
    text = ["".join(f"{value:012b}" for value in row) for row in values.tolist()]
    return b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in text)


def colour(mode: str, value: tuple[int, ...] | int) -> PIL.Image.Image:
    return PIL.Image.new(mode, (4, 2), value)


def palette(mode: str = "P") -> PIL.Image.Image:
    image = PIL.Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image if mode == "P" else image.convert("PA")


MODES: dict[str, tuple[bytes, NDArray[np.int_] | tuple[int, ...] | int | str]] = {
    "1": (encoded(colour("1", 1), "PNG"), 255),
    "L": (encoded(colour("L", 77), "PNG"), 77),
    "LA": (encoded(colour("LA", (77, 10)), "PNG"), 77),
    "P": (encoded(palette(), "PNG"), (10, 20, 30)),
    "P, transparent": (encoded(palette(), "PNG", transparency=1), (10, 20, 30)),
    "PA": (encoded(palette("PA"), "TIFF"), (10, 20, 30)),
    "RGB": (encoded(colour("RGB", (10, 20, 30)), "PNG"), (10, 20, 30)),
    "RGBA": (encoded(colour("RGBA", (10, 20, 30, 5)), "PNG"), (10, 20, 30)),
    "RGBX": (encoded(colour("RGBX", (10, 20, 30, 5)), "TIFF"), (10, 20, 30)),
    "CMYK": (encoded(colour("CMYK", (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
    "CMYK JPEG": (encoded(colour("CMYK", (255, 0, 0, 0)), "JPEG", quality=100), (0, 255, 255)),
    "YCbCr": (encoded(colour("YCbCr", (100, 128, 128)), "TIFF"), 100),
    "LAB": (encoded(colour("LAB", (255, 128, 128)), "TIFF"), 255),
    "I;16 PNG": (png(RAMP), RAMP >> 8),
    "I;16 TIFF": (encoded(PIL.Image.fromarray(RAMP), "TIFF"), RAMP >> 8),
    "I;16B TIFF": (tiff(RAMP, ">"), RAMP >> 8),
    "I;16 TIFF, white is 0": (tiff(RAMP, t262=0), 255 - (RAMP >> 8)),
    "12 bits": (tiff(RAMP >> 4, bits=12), RAMP >> 8),
    "PGM of 16 bits": (b"P5 4 2 65535\n" + RAMP.astype(">u2").tobytes(), RAMP >> 8),
    "PGM of 12 bits": (b"P5 4 2 4095\n" + (RAMP >> 4).astype(">u2").tobytes(), RAMP >> 8),
    "RGB of 16 bits": (b"P6 1 1 65535\n" + bytes([0, 99, 128, 0, 255, 255]), (0, 128, 255)),
    "I": (encoded(PIL.Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "whole numbers"),
    "I, signed 16 bits": (tiff(RAMP, t339=2), "whole numbers"),
    "F": (encoded(PIL.Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "floating-point numbers"),
    "F of Netpbm": (b"Pf\n1 1\n-1\n" + struct.pack("<f", 0.5), "floating-point numbers"),
}


@pytest.mark.parametrize("kind", MODES)
def test_every_mode_is_right_or_refused_by_name(tmp_path: Path, kind: str) -> None:
    content, expected = MODES[kind]
    path = folder_of(tmp_path, {"a.tif": content}) / "train/cat/a.tif"
    if isinstance(expected, str):
        for read in (lambda: opened(path), lambda: opened(path, "L"), lambda: load(tmp_path)):
            with pytest.raises(
                DataError, match=rf"a\.tif, found: {expected} \(mode [IF]\) without"
            ):
                read()
        return
    found = opened(path)
    wanted = np.asarray(expected)[..., None] if np.ndim(expected) == 2 else np.asarray(expected)
    off = 2 if "JPEG" in kind or kind == "LAB" else 0
    assert np.abs(found.astype(int) - wanted).max() <= off
    grey = np.asarray(PIL.Image.fromarray(found).convert("L")).astype(int)
    assert np.abs(opened(path, "L").astype(int) - grey).max() <= off
    load(tmp_path)


@pytest.mark.parametrize(("mode", "plain"), [("La", "LA"), ("RGBa", "RGBA")])
def test_premultiplied_colours_are_divided_by_their_transparency(mode: str, plain: str) -> None:
    from raydrop.data.images import as_mode

    value = (100, 128) if mode == "La" else (100, 50, 0, 128)
    image = PIL.Image.new(mode, (1, 1), value)
    expected = np.asarray(image.convert(plain)).ravel()[: len(value) - 1]
    assert expected[0] > 190
    assert np.array_equal(np.asarray(as_mode(image, "RGB")).ravel()[: len(expected)], expected)


def test_brightness_is_comparable_between_deep_images(tmp_path: Path) -> None:
    for name, top in (("dark", 2000), ("bright", 60000)):
        (tmp_path / f"{name}.png").write_bytes(png(np.linspace(0, top, 64).astype(np.uint16)[None]))
    assert opened(tmp_path / "dark.png").max() == 7
    assert opened(tmp_path / "bright.png").max() == 234


def test_small_deep_images_are_grey_and_have_another_fingerprint(tmp_path: Path) -> None:
    deep = png(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000)
    dataset = load(folder_of(tmp_path / "a", {}, beside=deep))
    assert dataset.image_shape == (1, 4, 6)
    assert dataset.decoded().train.inputs.pixels.max() == 179  # type: ignore[union-attr]
    assert any(r.startswith("6 files grey of more than eight bits") for r in dataset.remarks)
    # Where the shape says nothing of it, the fingerprint does.
    wide = png(np.zeros((4, 90, 3), np.uint8))
    first = load(folder_of(tmp_path / "b", {"a.png": deep}, beside=wide))
    shallow = png(np.zeros((4, 6, 3), np.uint8))
    shallow += bytes(len(deep) - len(shallow)) if len(deep) > len(shallow) else b""
    second = load(folder_of(tmp_path / "c", {"a.png": shallow[: len(deep)]}, beside=wide))
    assert first.image_shape == second.image_shape == (3, 224, 224)
    assert first.fingerprint != second.fingerprint


def frames(kind: str) -> bytes:
    pictures = [PIL.Image.new("RGB", (6, 4), (value, 0, 0)) for value in (250, 5)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], quality=100)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_several_pictures_the_first_is_taken_and_said(tmp_path: Path, kind: str) -> None:
    folder_of(tmp_path, {"a.webp": frames(kind), "b.webp": encoded(colour("RGB", 0), kind)})
    assert "1 file with several pictures, of which the first is used." in remarks(tmp_path)
    assert opened(tmp_path / "train/cat/a.webp")[..., 0].min() > 240


def test_a_photo_with_a_preview_is_one_picture(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.jpg": frames("MPO")})
    assert "several" not in remarks(tmp_path)
    assert opened(tmp_path / "train/cat/a.jpg")[..., 0].min() > 240


# Which way up.

UPRIGHT = np.zeros((16, 24, 3), np.uint8)
UPRIGHT[:8, :12] = 250
UPRIGHT[:8, 12:] = 150
UPRIGHT[8:, :12] = 70
LYING = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, 3),
}
"""What a camera stores, by the orientation that it notes with it."""


def photo(orientation: int, kind: str, **how: object) -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    image = PIL.Image.fromarray(np.ascontiguousarray(LYING.get(orientation, UPRIGHT)))
    return encoded(image, kind, exif=exif, quality=100, **how)


@pytest.mark.parametrize(
    ("orientation", "kind"),
    [
        *((orientation, "JPEG") for orientation in LYING),
        *((orientation, kind) for orientation in (5, 6) for kind in ("PNG", "WEBP", "TIFF", "MPO")),
        *((orientation, "AVIF") for orientation in LYING),  # which has turns of its own
    ],
)
def test_photos_are_turned_as_viewers_do(tmp_path: Path, orientation: int, kind: str) -> None:
    content = photo(orientation, kind)
    root = folder_of(tmp_path, {"a.jpg": content}, beside=png(UPRIGHT))
    dataset = load(root)
    assert dataset.image_shape == (3, 16, 24)
    images = dataset.train.inputs
    assert isinstance(images, FileImages)
    at = images.paths.index("train/cat/a.jpg")
    for found in (np.asarray(images.open(at)), np.asarray(images.take(np.array([1, at])).open(1))):
        assert np.abs(found.astype(int) - UPRIGHT).mean() < 4
    decoded = dataset.decoded().train.inputs.pixels[at]  # type: ignore[union-attr]
    assert np.abs(decoded.transpose(1, 2, 0).astype(int) - UPRIGHT).mean() < 4


def test_orientation_is_found_beyond_the_start_of_large_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    for kind in ("PNG", "WEBP"):
        how = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(PIL.Image.fromarray(noise), kind, exif=exif, **how)
        assert len(content) > 2**17
        dataset = load(folder_of(tmp_path / kind, {"a.png": content}))
        assert np.asarray(dataset.train.inputs.open(0)).shape == (300, 200, 3)  # type: ignore[union-attr]


def test_only_images_that_are_turned_change_the_fingerprint(tmp_path: Path) -> None:
    prints = {}
    for orientation in (1, 6, 8, 0, 9):
        content = photo(orientation, "JPEG")
        content += bytes(2000 - len(content))
        prints[orientation] = load(folder_of(tmp_path / str(orientation), {"a.jpg": content}))
    plain = encoded(PIL.Image.fromarray(UPRIGHT), "JPEG")
    none = load(folder_of(tmp_path / "none", {"a.jpg": plain + bytes(2000 - len(plain))}))
    for orientation in (1, 0, 9):
        assert prints[orientation].fingerprint == none.fingerprint
    assert len({prints[at].fingerprint for at in (1, 6, 8)}) == 3
    assert "1 file turned upright, as their EXIF data say." in prints[6].remarks
    assert not any("upright" in remark for remark in none.remarks)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("damage", ["", "cut", "loop", "nothing"])
def test_damaged_exif_data_turn_nothing(tmp_path: Path, order: str, damage: str) -> None:
    body = struct.pack(
        f"{order}2sHIHHHIHHI",
        b"II" if order == "<" else b"MM",
        42,
        8,
        1,
        ORIENTATION,
        3,
        1,
        6,
        0,
        0,
    )
    if damage:
        body = {"cut": body[:12], "loop": body[:4] + b"\xff" * 4 + body[8:], "nothing": b""}[damage]
    content = encoded(PIL.Image.fromarray(UPRIGHT), "JPEG", exif=b"Exif\0\0" + body)
    dataset = load(folder_of(tmp_path, {"a.jpg": content}))
    shape = np.asarray(dataset.train.inputs.open(0)).shape  # type: ignore[union-attr]
    assert shape == ((16, 24, 3) if damage else (24, 16, 3))


def test_imagenet_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("n1", "n2"):
            (tmp_path / split / name).mkdir(parents=True)
            for at in "01":
                (tmp_path / split / name / f"{at}.JPEG").write_bytes(photo(6, "JPEG"))
    dataset = load_dataset(f"imagenet:{tmp_path}")
    assert dataset.image_shape == (3, 24, 16)
    assert dataset.train.inputs.orientations == b""  # type: ignore[union-attr]
