"""What is read from an image file: wide pixels, EXIF orientation, and damaged, huge and hostile files."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from dassl.data import DataManager
from dassl.utils import read_image
from PIL import Image, ImageOps

from prompting import images as library
from tests.reference.tiny import TinySet

RAMP = np.linspace(0, 1, 48).reshape(6, 8)
EXPECTED = np.rint(RAMP * 255)


def pixels(path, turn=False):
    """The pixels that a training reads, which are those that a trained run in use reads."""
    image, in_use = read_image(str(path), turn), library.read_image(path, turn)
    assert image.mode == in_use.mode == "RGB" and np.array_equal(image, in_use)
    return np.asarray(image)


@pytest.mark.parametrize(
    ("values", "file"),
    [
        ((RAMP * 65535).astype(np.uint16), "a.png"),
        ((RAMP * 65535).astype(np.uint16), "a.tif"),
        ((RAMP * 65535).astype(">u2"), "a.tif"),
        ((RAMP * 65535).astype(np.uint16), "a.pgm"),
        ((RAMP * 65535).astype(np.int32), "a.tif"),
        ((RAMP * 255).astype(np.int32), "a.tif"),
        ((RAMP * 2e9 - 1e9).astype(np.int32), "a.tif"),
        (RAMP.astype(np.float32), "a.tif"),
        ((RAMP * 255).astype(np.float32), "a.tif"),
        ((RAMP * 6e38 - 3e38).astype(np.float32), "a.tif"),
        ((RAMP * 1e-3 - 0.5).astype(np.float32), "a.tif"),
    ],
    ids=str,
)
def test_wide_pixels_are_scaled_by_their_range(tmp_path, values, file):
    Image.fromarray(values).save(tmp_path / file)
    found = pixels(tmp_path / file)
    assert np.ptp(found, axis=2).max() == 0 and np.abs(found[..., 0] - EXPECTED).max() <= 1


def tiff12(values):
    """A TIFF file of 12-bit grey pixels (an even number a line)."""
    pairs = values.reshape(-1, 2).astype(int)
    data = bytes(b for x, y in pairs for b in (x >> 4, (x & 15) << 4 | y >> 8, y & 255))
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1),
            (278, values.shape[0]), (279, len(data))]  # fmt: skip
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + ifd + b"\0" * 4


def test_twelve_bits_and_a_constant_and_nan(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff12(RAMP * 4095))
    assert np.abs(pixels(tmp_path / "a.tif")[..., 0] - EXPECTED).max() <= 1
    Image.fromarray(np.full((4, 4), -7, np.int32)).save(tmp_path / "b.tif")
    assert not pixels(tmp_path / "b.tif").any()
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "c.tif")
    for read in (read_image, library.read_image):
        with pytest.raises(ValueError, match=r"c\.tif .*a pixel is not a finite number"):
            read(str(tmp_path / "c.tif"))


UPRIGHT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
STORED = {  # EXIF orientation -> the stored picture, by the standard: where its first row and first column belong
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT[:, ::-1].transpose(1, 0, 2),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: UPRIGHT[::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("file", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("number", STORED)
def test_exif_turns_a_picture_upright(tmp_path, number, file):
    exif = Image.Exif()
    exif[0x0112] = number
    stored = Image.fromarray(np.ascontiguousarray(STORED[number]))
    stored.save(tmp_path / file, exif=exif, **({"lossless": True} if file.endswith("webp") else {}))
    with Image.open(tmp_path / file) as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), UPRIGHT)  # another implementation
    assert np.array_equal(pixels(tmp_path / file, turn=True), UPRIGHT)
    if not file.endswith("tif"):  # Pillow always turns TIFF files
        assert np.array_equal(pixels(tmp_path / file), STORED[number])


@pytest.mark.parametrize(("key", "own", "turned"), [(None, True, True), (None, False, False), (True, False, True),
                                                    (False, True, False)])  # fmt: skip
def test_the_key_and_the_data_set_decide(make_cfg, tmp_path, monkeypatch, key, own, turned):
    monkeypatch.setattr(TinySet, "turn_images", own, raising=False)
    manager = DataManager(make_cfg("INPUT.EXIF", key, "INPUT.TRANSFORMS", (), "TEST.FINAL_MODEL", "best_val"))
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = np.random.RandomState(0).randint(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    expected = torch.tensor(picture[::-1, ::-1].copy() if turned else picture).permute(2, 0, 1) / 255
    for loader in (manager.train_loader_x, manager.val_loader, manager.test_loader):
        loader.dataset.data_source[0]._impath = str(tmp_path / "a.png")
        torch.testing.assert_close(loader.dataset[0]["img"], expected)
        torch.testing.assert_close(loader.dataset[0]["img"], expected)  # cached


def png(width, height, depth=1):
    """A small PNG file of many black pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(1000))
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def damaged():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG")
    return buffer.getvalue()[:200]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(made) (w) file closefile\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(20000, 20000), "exceeds limit of"),
        (png(2**31 - 1, 2**31 - 1), "(?i)unreadable|not a readable"),
        (png(0, 5), "(?i)unreadable|not a readable"),
        (png(1, 1001), "1 x 1001 pixels; allowed: sides up to 1 : 1000"),
        (png(60000, 3), "60000 x 3 pixels"),
        (damaged(), "(?i)truncated|broken"),
        (b"", "cannot identify"),
        (b"<svg/>", "cannot identify"),
        (POSTSCRIPT, "PostScript is a program"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_that_are_no_image_are_named(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, library.read_image):
        with pytest.raises(ValueError, match=words) as caught:
            read(str(tmp_path / "a.jpg"))
        assert str(tmp_path / "a.jpg") in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_turn_nothing(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(pixels(tmp_path / "a.png", turn=True), UPRIGHT)


def test_an_image_that_a_transform_cannot_take_is_named(make_cfg):
    manager = DataManager(make_cfg("INPUT.SIZE", (40, 40), "INPUT.TRANSFORMS", ("random_crop",)))
    with pytest.raises(ValueError, match=r"The transform of .*\.png \(8 x 8\) fails: Required crop size"):
        manager.train_loader_x.dataset[0]
