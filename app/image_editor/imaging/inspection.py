"""Inspection of image files without decoding a pixel: their kind, size and completeness.

The API refuses files that no engine could edit. The engine decodes strictly later, and has the last word.
"""

import re
import struct
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
# A file of nothing but tiny segments must not cost seconds. Photos have tens of segments, 20 MiB of PNG have thousands.
SEGMENTS_MAX = 10_000
_PADDING = re.compile(rb"\xff{0,65535}(?=\xff)|")  # a marker may have FF in front


def kind(data: bytes) -> str | None:
    """``jpeg``, ``png`` or ``webp`` by the first bytes; None for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == PNG:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def complete(data: bytes) -> bool:
    """False if the end of the file is missing. It reads only the structure: a few microseconds for a megabyte."""
    return {"jpeg": _jpeg_complete, "png": _png_complete, "webp": _webp_complete}[kind(data) or "jpeg"](data)


def _jpeg_complete(data: bytes) -> bool:
    # Segments carry their length, so the end mark of an embedded thumbnail is skipped. After the start of scan, an end
    # mark is the real one: in compressed data FF is always followed by 00 or a restart mark.
    return any(marker == 0xDA and data.rfind(b"\xff\xd9", at) != -1 for marker, at in _jpeg_segments(data))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The first segments of a JPEG up to its pixels: the marker of each, and where its content begins."""
    at = 2
    for _ in range(SEGMENTS_MAX):
        at = _PADDING.match(data, at).end()  # type: ignore[union-attr] - it matches nothing, too
        header = data[at : at + 4]
        if len(header) < 4 or header[0] != 0xFF or header[1] == 0xFF:
            return
        yield header[1], at + 4
        if header[1] == 0xDA:
            return
        at += 2 + int.from_bytes(header[2:])


def _png_complete(data: bytes) -> bool:
    at = len(PNG)
    for _ in range(SEGMENTS_MAX):
        if at + 12 > len(data):
            return False
        length, name = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if name == b"IEND":
            return at <= len(data)
    return True  # the engine decides


def _webp_complete(data: bytes) -> bool:
    return len(data) >= 12 and struct.unpack_from("<I", data, 4)[0] + 8 <= len(data) + 1


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from the header, before any rotation; None if the header is unreadable."""
    try:
        return {"jpeg": _jpeg_size, "png": _png_size, "webp": _webp_size}[kind(data) or ""](data)
    except (KeyError, struct.error, IndexError):
        return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, at in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 1)
            return width, height
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int] | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def too_many_parts(data: bytes) -> bool:
    """Whether a WebP has more chunks than SEGMENTS_MAX, those in the frames of an animation included.

    libwebp reads the header again for each of them, and nothing can interrupt it: 200,000 empty frames took 12 minutes.
    """
    if kind(data) != "webp":
        return False
    at, parts = 12, 0
    while at + 8 <= len(data) and parts <= SEGMENTS_MAX:
        name, length = struct.unpack_from("<4sI", data, at)
        parts += 1
        # The content of a frame begins with 16 bytes about it. Then come its own chunks.
        at += 8 + (min(16, length) if name == b"ANMF" else length + length % 2)
    return parts > SEGMENTS_MAX


def animated(data: bytes) -> bool:
    """Whether a WebP or PNG says that it has frames. Engines would keep the first one and drop the others."""
    found = kind(data)
    if found == "webp":
        return data[12:16] == b"VP8X" and len(data) > 20 and bool(data[20] & 0x02)
    if found != "png":
        return False
    at = len(PNG)
    for _ in range(SEGMENTS_MAX):
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if name == b"acTL":
            return int.from_bytes(data[at + 8 : at + 12]) > 1
        if name in (b"IDAT", b""):  # an animation is announced before the pixels
            return False
        at += 12 + length
    return False


class Unacceptable(Exception):
    """The file cannot be edited. ``str()`` says what to send instead; ``code`` names the kind."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def check(data: bytes, pixels_max: int, side_min: int) -> str:
    """The kind of the image: jpeg, png or webp. Raises Unacceptable if no engine could edit it."""
    found = kind(data)
    if found is None:
        raise Unacceptable("image_unsupported", "the file is not a JPEG, PNG or WebP image: send one of these")
    if too_many_parts(data):
        raise Unacceptable(
            "image_corrupt", f"the file has more than {SEGMENTS_MAX} parts: save the image again, without animation"
        )
    if animated(data):
        raise Unacceptable("image_unsupported", "the image is animated: send one picture, such as its first frame")
    dimensions = size(data)
    if dimensions is None:
        raise Unacceptable("image_corrupt", f"the {found} header is damaged: send the original file")
    width, height = dimensions
    if width * height > pixels_max:
        raise Unacceptable(
            "image_too_large",
            f"the image is {width}x{height}, {width * height / 1e6:.0f} megapixels: "
            f"send one of at most {pixels_max / 1e6:g} megapixels",
        )
    if min(width, height) < side_min:
        raise Unacceptable(
            "image_too_small", f"the image is {width}x{height} pixels: send one of at least {side_min}x{side_min}"
        )
    if not complete(data):
        raise Unacceptable("image_truncated", f"the end of the {found} file is missing: send the whole file")
    return found
