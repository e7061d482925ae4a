"""The embedded engine: libvips, driven by the operations into which a prompt is parsed (image_editor.imaging.prompts).

`Local.edit` applies them in the order they were written. It is pure: no Django, no Celery, no network.
"""

import contextlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, ClassVar

import pyvips

from image_editor.imaging import inspection, prompts
from image_editor.imaging import operations as typed
from image_editor.imaging.engines import (
    Described,
    Edited,
    EditError,
    EngineUnavailable,
    Plan,
    Progress,
    soft_time_limit,
)
from image_editor.imaging.operations import SIDE_MAX, Output

# All loaders are blocked except three, so that no file reaches one of libvips's hundred other formats. One thread: worker
# processes run in parallel already. No operation cache: two edits share nothing, and the cache would hold memory.
pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _loader in ("VipsForeignLoadJpeg", "VipsForeignLoadPng", "VipsForeignLoadWebp"):
    pyvips.operation_block_set(_loader, False)
pyvips.concurrency_set(1)
pyvips.cache_set_max(0)

INTERMEDIATE_MAX_BYTES = 64_000_000  # a larger intermediate image becomes a temporary file, which takes no longer
SHRINK_MAX = 32  # libvips holds all lines that become one line, so a stronger shrink is done in steps
CODEC_MAX_BYTES = 310_000_000  # memory of decoder and encoder together; the whole process then stays below 400 MiB
# The part of the soft time limit that an edit may take by the cost model. A host can be slower than the host on which
# the costs were measured, and other edits share its processors.
TIME_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on an image that is 8-bit sRGB with or without alpha."""

    streaming: ClassVar[bool] = True  # the operation reads its input once, from top to bottom
    commutes: ClassVar[bool] = False  # the result is the same before and after a resize
    neighbourhood: ClassVar[bool] = False  # a pixel of the result depends on many pixels of the input
    # Nanoseconds of processor time for each pixel of the input or the result, whichever has more. They are of an image
    # with alpha, and rounded up. `python -m benchmarks costs` compares them with what it measures.
    cost: ClassVar[float] = 20

    @property
    def label(self) -> str:
        """The name of the operation in an error."""
        return type(self).__name__.lower()

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        raise NotImplementedError

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result, in pixels. The result may differ by a pixel."""
        return width, height


def _on_colour(image: pyvips.Image, change: Callable[[pyvips.Image], pyvips.Image]) -> pyvips.Image:
    """Change the colour bands only and clip them back to 8 bits; alpha stays."""
    if not image.hasalpha():
        return _uchar(change(image))
    alpha = image[image.bands - 1]
    return _uchar(change(image.extract_band(0, n=image.bands - 1))).bandjoin(alpha)


def _uchar(image: pyvips.Image) -> pyvips.Image:
    """The image in 8 bits. It is not cast if it is 8-bit already: for a tiny image a cast costs as much as an edit."""
    return image if image.format == "uchar" else image.cast("uchar")


def _orientation(image: pyvips.Image) -> int:
    """The EXIF orientation. 1 is upright."""
    return image.get("orientation") if image.get_typeof("orientation") else 1


def _upright_size(image: pyvips.Image) -> tuple[int, int]:
    """Width and height as a viewer shows the image."""
    return (image.height, image.width) if _orientation(image) >= 5 else (image.width, image.height)


def _resized(image: pyvips.Image, width: int, height: int) -> pyvips.Image:
    """The image, upright and in this size. `resize` computes the same pixels in less time, but only of plain sRGB."""
    across, down = _upright_size(image)
    if max(across / width, down / height) > SHRINK_MAX:
        image = _resized(image, max(width, math.ceil(across / SHRINK_MAX)), max(height, math.ceil(down / SHRINK_MAX)))
        image = _materialise(image, lambda percent: None)
    if (image.interpretation, image.format, image.bands, _orientation(image)) == ("srgb", "uchar", 3, 1):
        return image.resize(width / image.width, vscale=height / image.height)
    return image.thumbnail_image(width, height=height, size="force")


@dataclass(frozen=True, slots=True)
class Matrix(Op):
    """Mixes red, green and blue: greyscale, sepia, saturation."""

    commutes: ClassVar[bool] = True
    label: ClassVar[str] = "change of colours"
    rows: tuple[tuple[float, float, float], ...]

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        rows = self.rows[:1] if len(set(self.rows)) == 1 else self.rows  # grey: compute one band, use it three times
        matrix = pyvips.Image.new_from_array([list(row) for row in rows])

        def mix(colour: pyvips.Image) -> pyvips.Image:
            mixed = colour.recomb(matrix).cast("uchar")
            return mixed if len(rows) == 3 else mixed.bandjoin([mixed, mixed])

        return _on_colour(image, mix)


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """Each colour value becomes ``factor * value + offset``, clipped to 0–255: brightness, contrast, inversion."""

    commutes: ClassVar[bool] = True
    label: ClassVar[str] = "change of brightness or contrast"
    factor: float
    offset: float = 0.0

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        return _on_colour(image, lambda colour: colour.linear(self.factor, self.offset, uchar=True))


@dataclass(frozen=True, slots=True)
class Rotate(Op):
    """Rotates clockwise, in degrees. New corners are white, or transparent if the image has alpha."""

    streaming: ClassVar[bool] = False
    cost: ClassVar[float] = 40
    degrees: float

    @property
    def neighbourhood(self) -> bool:
        return self.degrees % 90 != 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        cos, sin = (abs(part(math.radians(self.degrees))) for part in (math.cos, math.sin))
        return round(width * cos + height * sin), round(width * sin + height * cos)

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        turns, rest = divmod(self.degrees % 360, 90)
        if rest == 0:
            return (image, image.rot90(), image.rot180(), image.rot270())[int(turns)] if turns else image
        background = [255.0] * 3 + ([0.0] if image.hasalpha() else [])
        return image.rotate(self.degrees, background=background)


@dataclass(frozen=True, slots=True)
class Flip(Op):
    direction: str  # horizontal: left and right change places; vertical: top and bottom

    streaming: ClassVar[bool] = False
    commutes: ClassVar[bool] = True

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        return image.flip(self.direction)


@dataclass(frozen=True, slots=True)
class Upright(Op):
    """Applies the EXIF orientation."""

    streaming: ClassVar[bool] = False

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        return image.autorot()


@dataclass(frozen=True, slots=True)
class Resize(Op):
    """Resizes to exactly width x height. If one of them is None, or with ``fit``, the proportions are kept."""

    width: int | None
    height: int | None
    fit: bool = False

    neighbourhood: ClassVar[bool] = True
    cost: ClassVar[float] = 60

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        return _resized(image, *self.size(image.width, image.height))

    def size(self, width: int, height: int) -> tuple[int, int]:
        across = self.width / width if self.width else None
        down = self.height / height if self.height else None
        if across and down and not self.fit:
            return self.width or 1, self.height or 1
        scale = min(s for s in (across, down) if s)
        return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True, slots=True)
class Scale(Op):
    percent: float

    neighbourhood: ClassVar[bool] = True
    cost: ClassVar[float] = Resize.cost

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        return Resize(*self.size(image.width, image.height)).apply(image)

    def size(self, width: int, height: int) -> tuple[int, int]:
        return max(1, round(width * self.percent / 100)), max(1, round(height * self.percent / 100))


@dataclass(frozen=True, slots=True)
class Crop(Op):
    """Crops a rectangle, from the middle unless left and top are given. None: the largest square."""

    width: int | None
    height: int | None
    left: int | None = None
    top: int | None = None

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        side = min(image.width, image.height)
        width, height = self.width or side, self.height or side
        left = self.left if self.left is not None else (image.width - width) // 2
        top = self.top if self.top is not None else (image.height - height) // 2
        if left < 0 or top < 0 or left + width > image.width or top + height > image.height:
            where = f" at {left},{top}" if self.left is not None else ""
            raise EditError(
                "crop_outside",
                f"crop {width}x{height}{where} reaches outside the image, which is {image.width}x{image.height} at "
                f"that point: ask for a smaller rectangle",
            )
        return image.crop(left, top, width, height)

    def size(self, width: int, height: int) -> tuple[int, int]:
        side = min(width, height)
        return min(self.width or side, width), min(self.height or side, height)


@dataclass(frozen=True, slots=True)
class Blur(Op):
    sigma: float  # pixels

    neighbourhood: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return f"blur {self.sigma:g}"

    @property
    def cost(self) -> float:
        return 20 + 2.1 * self.sigma  # two passes, each as long as the radius

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        if not image.hasalpha():
            return image.gaussblur(self.sigma, precision="integer")
        # Transparent pixels have colours, too, such as black. They must not become part of the pixels beside them.
        weighted = image.premultiply().cast("uchar").gaussblur(self.sigma, precision="integer")
        return weighted.unpremultiply().cast("uchar")


@dataclass(frozen=True, slots=True)
class Sharpen(Op):
    sigma: float  # pixels

    neighbourhood: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return f"sharpen {self.sigma:g}"

    @property
    def cost(self) -> float:
        return 170 + 10 * self.sigma  # most of it is the way to CIELAB and back

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        return image.sharpen(sigma=self.sigma).colourspace("srgb")


@dataclass(frozen=True, slots=True)
class Watermark(Op):
    """White text with a dark edge in the lower right corner, as wide as a third of the image."""

    text: str

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        bands = image.bands
        escaped = self.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        width, height = max(image.width // 3, 8), max(image.height // 8, 8)
        try:
            glyphs = pyvips.Image.text(escaped, font="sans bold", width=width, height=height, align="high")
        except pyvips.Error as error:
            raise EditError("prompt_out_of_range", "the watermark has no character that can be drawn") from error
        if glyphs.width > image.width or glyphs.height > image.height:
            raise EditError("watermark_too_large", "the image is too small for a watermark: resize it up first")
        margin = max(2, min(image.width, image.height) // 50)
        left, top = max(image.width - glyphs.width - margin, 0), max(image.height - glyphs.height - margin, 0)
        edge = glyphs.embed(2, 2, glyphs.width + 4, glyphs.height + 4).gaussblur(1.5).linear(1.6, 0, uchar=True)
        for mask, colour, shift in ((edge, 0, 2), (glyphs, 255, 0)):
            layer = (
                mask.new_from_image([colour] * 3).copy(interpretation="srgb").bandjoin(mask.linear(0.75, 0, uchar=True))
            )
            image = image.composite2(layer, "over", x=left - shift, y=top - shift).cast("uchar")
        return image.extract_band(0, n=bands)  # composite gives an opaque image an alpha


@dataclass(frozen=True, slots=True)
class Format(Op):
    """Changes the format in which the result is saved."""

    commutes: ClassVar[bool] = True
    cost: ClassVar[float] = 0
    name: str  # jpeg, png, webp, avif

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        return image


GREYSCALE = Matrix(((0.2126, 0.7152, 0.0722),) * 3)
SEPIA = Matrix(((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)))


def _saturation(percent: float) -> Matrix:
    """Between greyscale (-100 %) and twice the colour (+100 %)."""
    keep = 1 + percent / 100
    grey = GREYSCALE.rows[0]
    return Matrix(
        tuple(tuple(keep * (row == column) + (1 - keep) * grey[column] for column in range(3)) for row in range(3))
    )


def _contrast(percent: float) -> Linear:
    factor = 1 + percent / 100
    return Linear(factor, 128 * (1 - factor))


def _crop(asked: typed.Crop) -> Crop:
    if asked.left is None and asked.top is None:
        return Crop(asked.width, asked.height)
    return Crop(asked.width, asked.height, asked.left or 0, asked.top or 0)


PIXELS: dict[type, Callable[[Any], Op]] = {
    typed.Greyscale: lambda _: GREYSCALE,
    typed.Sepia: lambda _: SEPIA,
    typed.Invert: lambda _: Linear(-1, 255),
    typed.Rotate: lambda asked: Rotate(asked.degrees),
    typed.Flip: lambda asked: Flip(asked.direction),
    typed.Resize: lambda asked: Resize(asked.width, asked.height),
    typed.Fit: lambda asked: Resize(asked.width, asked.height, fit=True),
    typed.Scale: lambda asked: Scale(asked.percent),
    typed.Crop: _crop,
    typed.CropSquare: lambda _: Crop(None, None),
    typed.Blur: lambda asked: Blur(asked.sigma),
    typed.Sharpen: lambda asked: Sharpen(asked.sigma),
    typed.Brightness: lambda asked: Linear(1 + asked.percent / 100),
    typed.Contrast: lambda asked: _contrast(asked.percent),
    typed.Saturation: lambda asked: _saturation(asked.percent),
    typed.Watermark: lambda asked: Watermark(asked.text),
    typed.Convert: lambda asked: Format(asked.format),
}


@lru_cache(maxsize=256)  # as for the prompts that are parsed
def parse(prompt: str) -> tuple[Op, ...]:
    """The operations on pixels that a prompt asks for, in order. Raises EditError."""
    return tuple(PIXELS[type(operation)](operation) for operation in prompts.parse(prompt))


def hoist_resize(operations: Iterable[Op]) -> tuple[Resize | None, list[Op]]:
    """Move a resize to the front if the result looks the same, so that the decoder can shrink the image."""
    rest = list(operations)
    quarter_turns = 0
    for index, op in enumerate(rest):
        if isinstance(op, Resize):
            resize = replace(op, width=op.height, height=op.width) if quarter_turns % 2 else op
            return resize, rest[:index] + rest[index + 1 :]
        if isinstance(op, Rotate) and op.degrees % 90 == 0:
            quarter_turns += int(op.degrees // 90)
        elif not op.commutes:
            break
    return None, rest


# PNG: level 2 with filter `paeth` takes less time than level 6 without a filter, and halves the size of an enlarged
# photo. A photo at its own size becomes a fifth smaller (0.63 to 0.49 MB), a page of text 60 kB larger. Sizes, and
# processor time for a megapixel, of an enlarged photo of 3 megapixels | the same with noise | a page of text:
#   level 6, no filter    4.91 MB  71 ms | 8.04 MB  75 ms | 0.14 MB 12 ms
#   level 1, paeth        2.69 MB  42 ms | 5.99 MB  63 ms | 0.21 MB 12 ms
#   level 2, paeth        2.59 MB  43 ms | 5.98 MB  68 ms | 0.20 MB 12 ms
#   level 3, paeth        2.48 MB  62 ms | 5.98 MB  68 ms | 0.20 MB 12 ms
#   level 4, paeth        2.34 MB  67 ms | 5.36 MB 112 ms | 0.18 MB 16 ms
#   level 6, paeth        2.22 MB 189 ms | 5.36 MB 119 ms | 0.17 MB 17 ms
#   level 2, all filters  2.59 MB  70 ms | 5.76 MB  80 ms | 0.19 MB 27 ms
# WebP: effort 2 takes half the time of effort 3, for a file that is a few per cent larger. Size, processor time and PSNR
# of a photo of 0.3 megapixels | enlarged to 3 megapixels:
#   effort 0  54.9 kB  10 ms  37.5 dB | 166 kB  53 ms  42.0 dB
#   effort 1  53.8 kB  12 ms  37.5 dB | 162 kB  68 ms  42.1 dB
#   effort 2  50.5 kB  16 ms  37.3 dB | 144 kB  98 ms  42.0 dB
#   effort 3  49.4 kB  34 ms  37.6 dB | 137 kB 225 ms  43.0 dB
#   effort 4  49.5 kB  33 ms  37.6 dB | 137 kB 227 ms  43.1 dB
# AVIF: Q 50 looks like a JPEG of about Q 85. Of its efforts, 1 is one of the quickest.
SAVERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("jpg", "image/jpeg", {"Q": 85}),
    "png": ("png", "image/png", {"compression": 2, "filter": "paeth"}),
    "webp": ("webp", "image/webp", {"Q": 82, "effort": 2}),
    "avif": ("avif", "image/avif", {"Q": 50, "effort": 1, "compression": "av1"}),
}
# To keep a result below `max_bytes`, it is saved again with lower qualities: the lowest one, then by halving.
ENCODES_MAX = 6
QUALITY_MIN = 10


@cache
def saves_avif() -> bool:
    """Whether this host's libvips can save AVIF. Debian has the encoder in a package of its own, so one is saved."""
    extension, _, options = SAVERS["avif"]
    try:
        pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb").write_to_buffer(f".{extension}", **options)
    except pyvips.Error:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Codec:
    """What decoding and encoding cost for a pixel: nanoseconds of processor time, and bytes of memory."""

    decode_ns: float
    encode_ns: float
    decode_bytes: float  # of an image that is not interlaced
    encode_bytes: float


CODECS = {
    "jpeg": Codec(15, 15, 0, 0.5),
    "png": Codec(30, 110, 0, 0),  # the memory of its encoder depends on the number of bands
    "webp": Codec(60, 260, 8, 11),  # libwebp works on the whole image
    "avif": Codec(0, 1500, 0, 60),  # it is only saved; libaom keeps several copies of the whole image
}


class Local:
    """The engine. ``pixels_max`` bounds the source and every intermediate image, ``seconds_max`` the processor time."""

    quick: ClassVar[bool] = True

    def __init__(self, pixels_max: int, seconds_max: float = math.inf) -> None:
        self.pixels_max, self.seconds_max = pixels_max, seconds_max

    def check(self, prompt: str, source: bytes | None = None, output: Output | None = None) -> None:
        operations = parse(prompt)
        kind = (inspection.kind(source) if source else None) or "png"
        _format(operations, kind, output)
        size = inspection.size(source) if source else None
        if size is None:
            return
        # Whether a viewer turns the image is not known here. So only what is too much either way is refused.
        try:
            self._check_work(operations, output, kind, *size)
        except EditError:
            self._check_work(operations, output, kind, *reversed(size))

    def plan(self, prompt: str, output: Output | None = None, image: Described | None = None) -> Plan:
        operations, seconds_max = parse(prompt), None if math.isinf(self.seconds_max) else self.seconds_max
        understood = prompts.parse(prompt)
        if image is None:
            return Plan(understood, _format(operations, None, output), seconds_max=seconds_max)
        self._check_size_of(image.width, image.height)
        seconds, width, height = self._check_work(operations, output, image.format, image.width, image.height)
        saved_as = _format(operations, image.format, output)
        return Plan(understood, saved_as, width, height, round(seconds, 3), seconds_max)

    def edit(self, source: bytes, prompt: str, progress: Progress, key: str, output: Output | None = None) -> Edited:
        operations = parse(prompt)
        kind = inspection.kind(source)
        if kind is None:
            raise EditError("image_unsupported", "the file is not a JPEG, PNG or WebP image")
        wanted = _format(operations, kind, output) or kind
        extension, content_type, _ = SAVERS[wanted]
        try:
            image, progress = self._load(source, kind, operations, output, progress)
            if wanted == "jpeg" and image.hasalpha():
                image = image.flatten(background=[255, 255, 255])
            width, height = image.width, image.height
            data = _saved(image, wanted, output, progress)
        except pyvips.Error as error:
            if _OURS.search(str(error.detail or error)):
                raise EngineUnavailable(_reason(error)) from error
            raise EditError("image_corrupt", f"the image cannot be decoded: {_reason(error)}") from error
        return Edited(data, extension, content_type, width, height)

    def _load(
        self, source: bytes, kind: str, operations: Sequence[Op], output: Output | None, progress: Progress
    ) -> tuple[pyvips.Image, Progress]:
        """The edited image, whose last pixels are computed when it is saved, and the progress of saving it."""
        strict = "fail_on=truncated"
        header = pyvips.Image.new_from_buffer(source, f"[{strict}]", access="sequential")
        self._check_size_of(header.width, header.height)
        size = _upright_size(header)
        # A profile can be compressed a thousandfold, and the conversion of colours copies it.
        profile_bytes = 4 * len(header.get("icc-profile-data")) if header.get_typeof("icc-profile-data") else 0
        self._check_work(operations, output, kind, *size, _interlaced_bytes(header, kind), header.bands, profile_bytes)
        resize, rest = hoist_resize(operations)
        if resize is None:
            image = header
            if _orientation(header) != 1:
                rest = [Upright(), *rest]
        else:
            width, height = resize.size(*size)
            # Colours are converted below, on the small image. An export profile here would convert the large one.
            factor = min(size[0] / width, size[1] / height)
            option = ""
            if kind == "webp" and factor > 1:  # its decoder shrinks to any size
                option = f",scale={1 / factor}"
            elif kind == "jpeg" and (shrink := _decoder_shrink(factor)) > 1:
                option = f",shrink={shrink}"
            image = header
            if option:
                image = pyvips.Image.new_from_buffer(source, f"[{strict}{option}]", access="sequential")
            image = _resized(image, width, height)
        del header  # it would hold the decoder's memory until the edit is done
        image = _to_srgb(image)
        materialised = materialise_before(rest, stacked=resize is not None)
        stages = 1 + sum(materialised)
        stage = 0
        for op, first in zip(rest, materialised, strict=True):
            if first:
                image = _materialise(image, _part(progress, stage, stages))
                stage += 1
            image = op.apply(image)
            self._check_size_of(image.width, image.height)
        return image, _part(progress, stage, stages)

    def _check_work(
        self,
        operations: Sequence[Op],
        output: Output | None,
        kind: str,
        width: int,
        height: int,
        decode_bytes: float | None = None,
        bands: int = 3,
        profile_bytes: int = 0,
    ) -> tuple[float, int, int]:
        """The seconds that an edit of an image of this kind and size takes, and the size of the result.

        Raises EditError if it needs too much time or memory. Computes no pixel.
        """
        source_pixels = width * height
        resize, rest = hoist_resize(operations)
        shrunk = 1.0
        if resize:
            across, down = resize.size(width, height)
            shrunk = min(width / across, height / down)
        costs: list[tuple[float, str]] = []  # seconds, and the operation
        for op in [resize, *rest] if resize else rest:
            before = width * height
            width, height = op.size(width, height)
            self._check_size_of(width, height)
            costs.append((op.cost * max(before, width * height) / 1e9, op.label))
        wanted = _format(operations, kind, output) or kind
        decoder, encoder = CODECS[kind], CODECS[wanted]
        saving = encoder.encode_ns * width * height * _encodes(wanted, output) / 1e9
        costs.append((saving, f"saving as {wanted}"))
        seconds = decoder.decode_ns * source_pixels / 1e9 + sum(cost for cost, _ in costs)
        if seconds > self.seconds_max:
            raise EditError(
                "too_slow",
                f"the edit would take about {seconds:.0f} s, at most {self.seconds_max:.0f}; the longest operation is "
                f"“{max(costs)[1]}”: ask for less, or send a smaller image",
            )
        if decode_bytes is None:  # half of it is the result, which the WebP decoder shrinks itself
            decode_bytes = decoder.decode_bytes * (1 + 1 / max(shrunk, 1) ** 2) / 2
        # Noise becomes a PNG of a byte for each value, and libvips and Python each hold it.
        encode_bytes = 2 * bands if wanted == "png" else encoder.encode_bytes
        needed = decode_bytes * source_pixels + encode_bytes * width * height + profile_bytes
        if needed > CODEC_MAX_BYTES:
            otherwise = "use jpeg or png for webp" if "webp" in (kind, wanted) else "send it without interlacing"
            otherwise = "ask for another format than avif" if wanted == "avif" else otherwise
            otherwise = "remove its colour profile" if profile_bytes > needed / 2 else otherwise
            raise EditError(
                "image_too_large",
                f"an edit from {kind} of {source_pixels / 1e6:.0f} megapixels to {wanted} of "
                f"{width * height / 1e6:.0f} needs {needed / 1e6:.0f} MB of memory, at most {CODEC_MAX_BYTES / 1e6:.0f}: "
                f"send a smaller image, or {otherwise}",
            )
        return seconds, width, height

    def _check_size_of(self, width: int, height: int) -> None:
        if width * height > self.pixels_max or max(width, height) > SIDE_MAX:
            raise EditError(
                "image_too_large",
                f"{width}x{height} is too large: at most {self.pixels_max / 1e6:g} megapixels and {SIDE_MAX} a side, "
                f"before and after each edit",
            )


def _format(operations: Sequence[Op], kind: str | None, output: Output | None) -> str | None:
    """The format of the result: that of ``output``, or the last one that the prompt names, or that of the source."""
    named = next((op.name for op in reversed(operations) if isinstance(op, Format)), kind)
    wanted = output.format if output and output.format else named
    if wanted == "avif" and not saves_avif():
        raise EditError("format_unavailable", "this platform cannot save AVIF: ask for jpeg, png or webp")
    return wanted


def _encodes(wanted: str, output: Output | None) -> int:
    """How often the result is saved at most."""
    return ENCODES_MAX if output and output.max_bytes and wanted != "png" else 1


def _saved(image: pyvips.Image, wanted: str, output: Output | None, progress: Progress) -> bytes:
    """The file of the result. With ``max_bytes``, the best quality that is small enough, as halving finds it."""
    extension, _, options = SAVERS[wanted]
    highest = options.get("Q", 0)  # 0: the format has no loss
    if highest and output and output.quality:
        highest = output.quality
    max_bytes = output.max_bytes if output else None
    if max_bytes:  # a pipeline would be computed again for each quality
        image = _materialise(image, progress)

    def encode(quality: int) -> bytes:
        pixels = image.copy() if max_bytes else image
        chosen = options | {"Q": quality} if quality else options
        with _watched(pixels, (lambda _: None) if max_bytes else progress):
            return pixels.write_to_buffer(f".{extension}", keep="none", **chosen)

    data = encode(highest)
    if not max_bytes or len(data) <= max_bytes:
        return data
    lowest = min(QUALITY_MIN, highest)
    if lowest < highest:
        data = encode(lowest)
    if len(data) > max_bytes:
        raise EditError(
            "output_too_large",
            f"the result has {len(data)} bytes as {wanted}"
            f"{f' of quality {lowest}' if highest else ''}, at most {max_bytes} are wanted: "
            f"resize the image, or ask for {'webp or jpeg' if wanted == 'png' else 'more bytes'}",
        )
    for _ in range(ENCODES_MAX - 2):
        middle = (lowest + highest) // 2
        if middle == lowest:
            break
        tried = encode(middle)
        if len(tried) <= max_bytes:
            data, lowest = tried, middle
        else:
            highest = middle
    return data


def _interlaced_bytes(header: pyvips.Image, kind: str) -> float | None:
    """Bytes of memory that the decoder takes for each pixel of an interlaced image. None if it is not interlaced."""
    if kind == "webp" or not header.get_typeof("interlaced"):
        return None
    if kind == "jpeg":
        return header.bands * 2.2  # coefficients of two bytes, and what the decoder needs besides
    return header.bands * (2 if header.format == "ushort" else 1)


def materialise_before(operations: Sequence[Op], stacked: bool) -> list[bool]:
    """For each operation, whether its input must be an image in memory or in a file instead of a pipeline.

    libvips computes a pipeline on demand, in pieces. A neighbourhood operation asks for overlapping pieces, and an
    operation that does not stream asks for pieces in another order. A neighbourhood operation before it would be
    computed again for each piece: twice `blur 100` takes ten times as long as once. A decoder cannot go back at all.
    ``stacked`` says whether a resize comes before these operations.

    Three ways were measured. Copying to memory and writing a temporary file take the same time: 24 s of processor time
    for 20 times `blur 100` at 12 megapixels, 3.7 s for 3 times. The peak was 136 MiB with copies and 85 MiB with files,
    whatever the number. Caching the last lines (`linecache`) takes almost three times as long for two blurs, and its
    memory grows with their number.
    """
    streams, needed = True, []
    for op in operations:
        first = (op.neighbourhood and stacked) or (not op.streaming and (streams or stacked))
        needed.append(first)
        streams = streams and not first
        stacked = op.neighbourhood or (stacked and not first)
    return needed


def _materialise(image: pyvips.Image, progress: Progress) -> pyvips.Image:
    """Compute the image now. A large one becomes a temporary file in TMPDIR, so two of them never fill the memory."""
    with _watched(image, progress):
        if image.width * image.height * image.bands <= INTERMEDIATE_MAX_BYTES:
            made = image.copy_memory()
        else:
            made = pyvips.Image.new_temp_file("%s.v")
            image.write(made)
    made.set_progress(False)  # libvips would report to the former image
    return made


def _part(progress: Progress, stage: int, stages: int) -> Progress:
    """Progress of one of several stages, as a part of the whole."""
    return lambda percent: progress((100 * stage + percent) // stages)


def _decoder_shrink(factor: float) -> int:
    """How far a JPEG decoder shrinks by itself, if the image is to become ``factor`` times smaller.

    The decoder averages blocks, which is cheap but coarse. So a proper resize does the last factor of 1.5. libvips would
    leave a factor of 2, and so decode a 12-megapixel photo in full to reach 1024 pixels.
    """
    return max((shrink for shrink in (2, 4, 8) if factor >= 1.5 * shrink), default=1)


def _to_srgb(image: pyvips.Image) -> pyvips.Image:
    """8-bit sRGB with or without alpha, whatever the file held (CMYK, grey, 16 bits, a wide-gamut profile)."""
    if image.get_typeof("icc-profile-data"):
        with contextlib.suppress(pyvips.Error):  # an image with a broken profile is accepted
            image = image.icc_transform("srgb", embedded=True)
    if image.interpretation != "srgb":
        image = image.colourspace("srgb")
    return _uchar(image)


@contextlib.contextmanager
def _watched(image: pyvips.Image, progress: Progress) -> Iterator[None]:
    """Report libvips's progress while the image is computed. An exception of the listener stops the work.

    The image holds the listener, so the listener must not hold the image: such a cycle keeps tens of megabytes until
    the garbage collector runs.

    A soft time limit or a cancellation is a signal, whose handler raises. It raises in ``listen``, or around it in the
    wrapper of the callback, where cffi would swallow the exception.
    """
    last = -10
    raised: list[BaseException] = []

    def swallowed(event: Any) -> None:
        if "cffi callback" in (event.err_msg or ""):
            raised.append(event.exc_value)
        else:
            before(event)

    def listen(image: pyvips.Image, state: Any) -> None:
        nonlocal last
        if raised:
            image.set_kill(True)
            return
        if state.percent < last + 10:
            return
        last = state.percent
        try:
            progress(state.percent)
        except BaseException as error:
            raised.append(error)
            image.set_kill(True)

    image.set_progress(True)
    image.signal_connect("eval", listen)
    before, sys.unraisablehook = sys.unraisablehook, swallowed
    try:
        yield
    except pyvips.Error:
        if not raised:
            raise
    finally:
        sys.unraisablehook = before
    if raised:
        raise raised.pop()


# What libvips says if this host has no memory or no room for a temporary file. It is no fault of the image.
_OURS = re.compile("out of memory|No space left on device|unable to (?:make|open|write)", re.IGNORECASE)


def _reason(error: pyvips.Error) -> str:
    lines = [line.strip() for line in str(error.detail or error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "unknown format"


def create(env: Mapping[str, str]) -> Local:
    pixels_max = int(env.get("IMAGE_EDITOR_PIXELS_MAX") or 50_000_000)
    return Local(pixels_max, soft_time_limit(env) * TIME_SHARE)
