"""The operations of an edit as typed JSON. `image_editor.imaging.prompts` parses a prompt into the same types.

Rows and task messages carry prompts, never this JSON: `as_prompt` writes operations as the prompt that means the same,
in the words that every release understands. So a change of these types needs no new version of the message.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from image_editor.imaging.engines import EditError

OPERATIONS_MAX = 20
SIDE_MAX = 16_000  # pixels; WebP ends at 16383
WATERMARK_MAX_CHARS = 100
# Of each pair, the second character ends the text, so a text without it can stand between the two.
QUOTES = ('""', "“”", "「」", "''", "‘’")


def _absent(value: object) -> bool:
    return value is None


def plain(number: float) -> str:
    """The number with up to three decimals and without an exponent, as prompts have it."""
    return f"{number:.3f}".rstrip("0").rstrip(".")


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON Schema counts 92.0 as an integer, and strict mode alone would refuse it. It stands last in an Annotated: before a
# Field, it would change the names of the limits in the OpenAPI document.
Whole = BeforeValidator(_whole)
Side = Annotated[int, Field(ge=1, le=SIDE_MAX, description="pixels"), Whole]
# A prompt has three decimals. Adding 0 turns -0 into 0.
Decimal = AfterValidator(lambda number: round(number, 3) + 0.0)
Percent = Annotated[float, Field(ge=-100, le=100), Decimal]
Format = Literal["jpeg", "png", "webp", "avif"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Greyscale(_Strict):
    op: Literal["greyscale"]

    def phrase(self) -> str:
        return "greyscale"


class Sepia(_Strict):
    op: Literal["sepia"]

    def phrase(self) -> str:
        return "sepia"


class Invert(_Strict):
    """Turns every colour into its opposite."""

    op: Literal["invert"]

    def phrase(self) -> str:
        return "invert"


class Rotate(_Strict):
    op: Literal["rotate"]
    degrees: Annotated[float, Field(ge=-360, le=360, description="clockwise"), Decimal]

    def phrase(self) -> str:
        return f"rotate {plain(self.degrees)}"


class Flip(_Strict):
    """`horizontal`: left and right change places."""

    op: Literal["flip"]
    direction: Literal["horizontal", "vertical"]

    def phrase(self) -> str:
        return f"flip {self.direction}"


class Resize(_Strict):
    """Resizes to exactly this size. With only one of the two, the proportions are kept."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [side], "properties": {side: {"type": "integer"}}} for side in ("width", "height")]
        }
    )
    op: Literal["resize"]
    width: Side | None = Field(None, exclude_if=_absent)
    height: Side | None = Field(None, exclude_if=_absent)

    def model_post_init(self, _: Any) -> None:
        if self.width is None and self.height is None:
            raise ValueError("give a width, a height or both")

    def phrase(self) -> str:
        if self.width is None:
            return f"resize height {self.height}"
        return f"resize to {self.width}" + (f"x{self.height}" if self.height else "")


class Fit(_Strict):
    """Resizes to the largest size within this one that keeps the proportions."""

    op: Literal["fit"]
    width: Side
    height: Side

    def phrase(self) -> str:
        return f"fit {self.width}x{self.height}"


class Scale(_Strict):
    op: Literal["scale"]
    percent: Annotated[float, Field(ge=1, le=1000, description="of the width and of the height"), Decimal]

    def phrase(self) -> str:
        return f"resize {plain(self.percent)}%"


class Crop(_Strict):
    """Crops from the middle. With `left` or `top`, from there, and the one that is missing is 0."""

    op: Literal["crop"]
    width: Side
    height: Side
    left: Annotated[int, Field(ge=0, le=SIDE_MAX), Whole] | None = Field(None, exclude_if=_absent)
    top: Annotated[int, Field(ge=0, le=SIDE_MAX), Whole] | None = Field(None, exclude_if=_absent)

    def phrase(self) -> str:
        middle = self.left is None and self.top is None
        return f"crop {self.width}x{self.height}" + ("" if middle else f"+{self.left or 0}+{self.top or 0}")


class CropSquare(_Strict):
    """Crops the largest square from the middle."""

    op: Literal["crop_square"]

    def phrase(self) -> str:
        return "crop square"


class Blur(_Strict):
    op: Literal["blur"]
    sigma: Annotated[float, Field(ge=0.3, le=100, description="pixels"), Decimal] = 2.0

    def phrase(self) -> str:
        return f"blur {plain(self.sigma)}"


class Sharpen(_Strict):
    op: Literal["sharpen"]
    sigma: Annotated[float, Field(ge=0.3, le=10, description="pixels"), Decimal] = 1.0

    def phrase(self) -> str:
        return f"sharpen {plain(self.sigma)}"


class _Tone(_Strict):
    op: str
    percent: Percent

    def phrase(self) -> str:
        if self.percent.is_integer():
            return f"{self.op} {self.percent:+.0f}"
        return f"{'increase' if self.percent > 0 else 'decrease'} {self.op} {plain(abs(self.percent))}"


class Brightness(_Tone):
    op: Literal["brightness"]


class Contrast(_Tone):
    op: Literal["contrast"]


class Saturation(_Tone):
    op: Literal["saturation"]


# What is not text, and the character that marks the place of a text in `prompts`. A text may have lines.
_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffc"
_TEXT = f"[^{_CONTROL}]"


def _stripped(text: object) -> object:
    return text.strip() if isinstance(text, str) else text


class Watermark(_Strict):
    """White text in the lower right corner."""

    op: Literal["watermark"]
    text: Annotated[
        str,
        Field(min_length=1, max_length=WATERMARK_MAX_CHARS, pattern=f"^{_TEXT}*[^{_CONTROL}\\s]{_TEXT}*$"),
        BeforeValidator(_stripped),
    ]

    def phrase(self) -> str:
        pair = next((pair for pair in QUOTES if pair[1] not in self.text), None)
        if pair is None:
            raise EditError("operation_invalid", "the text has every kind of quotation mark: leave one kind out")
        return f"watermark {pair[0]}{self.text}{pair[1]}"


class Convert(_Strict):
    """Saves the result in this format."""

    op: Literal["convert"]
    format: Format

    def phrase(self) -> str:
        return f"convert to {self.format}"


Operation = Annotated[
    Greyscale
    | Sepia
    | Invert
    | Rotate
    | Flip
    | Resize
    | Fit
    | Scale
    | Crop
    | CropSquare
    | Blur
    | Sharpen
    | Brightness
    | Contrast
    | Saturation
    | Watermark
    | Convert,
    Field(discriminator="op"),
]


class Output(_Strict):
    """How the result is saved. The platform chooses what is left out."""

    format: Format | None = Field(None, exclude_if=_absent, description="wins over a format that the prompt names")
    quality: Annotated[int, Field(ge=1, le=100), Whole] | None = Field(
        None, exclude_if=_absent, description="of JPEG, WebP and AVIF; a PNG has no loss"
    )
    max_bytes: Annotated[int, Field(ge=1), Whole] | None = Field(
        None, exclude_if=_absent, description="the quality is lowered until the result is as small as this"
    )

    def stored(self) -> dict[str, Any] | None:
        """As rows and messages have it. None if everything is left out."""
        return self.model_dump() or None


def make(kind: type[BaseModel], **fields: Any) -> Any:
    """An operation from the values that a prompt names. Raises EditError if one of them is out of range."""
    (op,) = get_args(kind.model_fields["op"].annotation)
    try:
        return kind(op=op, **fields)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        field, value = error["loc"][-1], error["input"]
        limit = error["msg"].removeprefix("Input should be ")
        shown = plain(value) if isinstance(value, int | float) else repr(value)
        raise EditError("prompt_out_of_range", f"{op} {field} should be {limit}, not {shown}") from invalid


def as_prompt(operations: Iterable[Operation]) -> str:
    """The prompt that is parsed into these operations. Raises EditError, which names the operation."""
    phrases = []
    for number, operation in enumerate(operations):
        try:
            phrases.append(operation.phrase())
        except EditError as error:
            raise EditError(error.code, f"operations.{number}.{operation.op}: {error}") from error
    return ", ".join(phrases)
