"""The inspection of image files: garbage costs no time."""

import contextlib
import io
import time

import pytest
from PIL import Image

from image_editor.imaging import inspection

JPEG = b"\xff\xd8"
FRAME = b"\xff\xc0\x00\x0b\x08\x00\x09\x00\x09" + bytes(4)  # a header of 9x9 pixels
SCAN = b"\xff\xda\x00\x02"
PNG = inspection.PNG + b"\x00\x00\x00\x0dIHDR" + b"\x00\x00\x00\x09" * 2 + bytes(9)
WEBP = b"RIFF\xff\xff\xff\x00WEBPVP8X" + (10).to_bytes(4, "little") + bytes(4) + b"\x08\x00\x00" * 2


@pytest.mark.parametrize(
    ("beginning", "garbage"),
    [
        (JPEG, b"\xff"),
        (JPEG, b"\xff\xe0\x00\x02"),
        (JPEG, b"\xff\xff\xe0\x00\x02"),
        (JPEG + FRAME, b"\xff\xe0\x00\x02"),
        (JPEG + FRAME + SCAN, b"\xff\x00"),
        (JPEG + FRAME + SCAN, b"\xd9"),
        (PNG, b"\x00\x00\x00\x00IDAT" + bytes(4)),
        (WEBP, b"ANMF" + bytes(4)),
    ],
    ids=[
        "padding",
        "segments",
        "padded segments",
        "segments after the frame",
        "pixels",
        "end marks",
        "chunks",
        "frames",
    ],
)
def test_20_mib_of_garbage_cost_no_time(beginning: bytes, garbage: bytes) -> None:
    data = beginning + garbage * (20 * 2**20 // len(garbage))
    began = time.process_time()
    with contextlib.suppress(inspection.Unacceptable):
        inspection.check(data, 50_000_000, 2)
    assert time.process_time() - began < 0.2


def test_a_marker_may_have_padding_in_front() -> None:
    image = JPEG + b"\xff" * 1000 + FRAME + b"\xff" * 3 + SCAN + b"pixels\xff\xd9"
    assert inspection.size(image) == (9, 9)
    assert inspection.complete(image)
    assert not inspection.complete(image[:-1])


@pytest.mark.parametrize(
    "parts",
    [b"ANMF" + bytes(4), b"ANMF\x18\x00\x00\x00" + bytes(16) + b"ALPH" + bytes(4), b"EXIF" + bytes(4)],
    ids=["frames", "frames with a part", "texts"],
)
def test_a_webp_of_thousands_of_parts_is_refused(parts: bytes) -> None:
    """Its decoder takes minutes, and nothing can stop it."""
    with pytest.raises(inspection.Unacceptable, match="parts") as refused:
        inspection.check(WEBP + parts * 10_001, 50_000_000, 2)
    assert refused.value.code == "image_corrupt"
    assert not inspection.too_many_parts(WEBP + parts * 1000)


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
def test_an_animation_is_refused_and_one_picture_is_not(format: str) -> None:
    first, second = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")

    def saved(others: list[Image.Image]) -> bytes:
        file = io.BytesIO()
        first.save(file, format, save_all=True, append_images=others)
        return file.getvalue()

    assert inspection.check(saved([]), 50_000_000, 2) == format.lower()
    with pytest.raises(inspection.Unacceptable, match="the image is animated: send one picture") as refused:
        inspection.check(saved([second]), 50_000_000, 2)
    assert refused.value.code == "image_unsupported"
