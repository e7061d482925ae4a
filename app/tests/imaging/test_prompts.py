"""How prompts become operations, and operations prompts. Needs neither Django nor services."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import APP
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from image_editor.imaging.engines import EditError
from image_editor.imaging.operations import QUOTES, Operation, as_prompt
from image_editor.imaging.prompts import parse

LIST = TypeAdapter(list[Operation])
LANGUAGES = {"en": ["prompts_en"], "zh": ["prompts_zh_hans", "prompts_zh_hant"]}
# Each operation, and the prompt in the words of every release that means the same.
SAME = [
    ({"op": "greyscale"}, "greyscale"),
    ({"op": "sepia"}, "sepia"),
    ({"op": "invert"}, "invert"),
    ({"op": "rotate", "degrees": -12.5}, "rotate -12.5"),
    ({"op": "flip", "direction": "vertical"}, "flip vertical"),
    ({"op": "resize", "width": 800}, "resize to 800"),
    ({"op": "resize", "height": 600}, "resize height 600"),
    ({"op": "resize", "width": 800, "height": 600}, "resize to 800x600"),
    ({"op": "fit", "width": 800, "height": 600}, "fit 800x600"),
    ({"op": "scale", "percent": 33.333}, "resize 33.333%"),
    ({"op": "crop", "width": 400, "height": 300}, "crop 400x300"),
    ({"op": "crop", "width": 400, "height": 300, "left": 10, "top": 0}, "crop 400x300+10+0"),
    ({"op": "crop_square"}, "crop square"),
    ({"op": "blur", "sigma": 0.3}, "blur 0.3"),
    ({"op": "sharpen", "sigma": 10.0}, "sharpen 10"),
    ({"op": "brightness", "percent": 20.0}, "brightness +20"),
    ({"op": "contrast", "percent": -12.5}, "decrease contrast 12.5"),
    ({"op": "saturation", "percent": 0.5}, "increase saturation 0.5"),
    ({"op": "watermark", "text": '5" and 水印'}, 'watermark “5" and 水印”'),
    ({"op": "watermark", "text": "two\nlines"}, 'watermark "two\nlines"'),
    ({"op": "convert", "format": "avif"}, "convert to avif"),
]


def phrases(name: str) -> dict[str, str]:
    """The phrases of a list, each with the prompt that says the same, or a dash."""
    lines = (APP / f"tests/data/{name}.txt").read_text().splitlines()
    pairs = [line.rsplit(" | ", 1) for line in lines if not line.startswith("#")]
    assert len(pairs) == len(dict(pairs)), "a phrase is in the list twice"
    return dict(pairs)


def understood(phrase: str) -> str:
    """What a prompt is understood as, in the words of docs/app/prompts.md. A dash: it is refused."""
    try:
        return as_prompt(parse(phrase))
    except EditError:
        return "-"


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_people_write_is_understood(language: str, figure: Callable) -> None:
    """What is not understood is refused: a wrong edit would be worse than an error."""
    lists = [phrases(name) for name in LANGUAGES[language]]
    assert min(map(len, lists)) >= 150
    wanted = {phrase: want for found in lists for phrase, want in found.items()}
    got = {phrase: understood(phrase) for phrase in wanted}
    assert {phrase: said for phrase, said in got.items() if said not in ("-", wanted[phrase])} == {}
    refused = [phrase for phrase, said in got.items() if said == "-"]
    print(refused)
    figure(f"prompts_understood_{language}", round(1 - len(refused) / len(got), 3), "", at_least=0.95)


def test_what_a_stranger_writes_is_never_understood_as_something_else(figure: Callable) -> None:
    """What is not understood is refused, and counted."""
    wanted = phrases("prompts_independent")
    got = {phrase: understood(phrase) for phrase in wanted}
    opposite = {phrase: said for phrase, said in got.items() if said not in ("-", wanted[phrase])}
    clear = [phrase for phrase, want in wanted.items() if want != "-"]
    figure("prompts_understood_of_a_stranger", round(sum(got[phrase] != "-" for phrase in clear) / len(clear), 3), "")
    figure("prompts_opposite", len(opposite), "prompts", 0)
    assert opposite == {}


@pytest.mark.parametrize(("operation", "prompt"), SAME)
def test_an_operation_and_its_prompt_mean_the_same(operation: dict[str, Any], prompt: str) -> None:
    typed = LIST.validate_python([operation])
    assert as_prompt(typed) == prompt
    assert [found.model_dump() for found in parse(prompt)] == [operation]


def test_every_operation_has_an_example() -> None:
    schema = LIST.json_schema()
    assert {operation["op"] for operation, _ in SAME} == set(schema["items"]["discriminator"]["mapping"])


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda value: round(value, 3) + 0.0)


SIDE = st.integers(1, 16_000)
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffc"), min_size=1, max_size=100)
WORDS = WORDS.map(str.strip).filter(lambda text: text and any(end not in text for _, end in QUOTES))
ANY = st.one_of(
    st.sampled_from([{"op": op} for op in ("greyscale", "sepia", "invert", "crop_square")]),
    st.fixed_dictionaries({"op": st.just("rotate"), "degrees": number(-360, 360)}),
    st.fixed_dictionaries({"op": st.just("flip"), "direction": st.sampled_from(["horizontal", "vertical"])}),
    st.fixed_dictionaries({"op": st.just("resize"), "width": SIDE}, optional={"height": SIDE}),
    st.fixed_dictionaries({"op": st.just("fit"), "width": SIDE, "height": SIDE}),
    st.fixed_dictionaries({"op": st.just("scale"), "percent": number(1, 1000)}),
    st.fixed_dictionaries({"op": st.just("crop"), "width": SIDE, "height": SIDE}, optional={"left": SIDE}),
    st.fixed_dictionaries({"op": st.just("blur"), "sigma": number(0.3, 100)}),
    st.fixed_dictionaries({"op": st.just("sharpen"), "sigma": number(0.3, 10)}),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["brightness", "contrast", "saturation"]), "percent": number(-100, 100)}
    ),
    st.fixed_dictionaries({"op": st.just("watermark"), "text": WORDS}),
    st.fixed_dictionaries({"op": st.just("convert"), "format": st.sampled_from(["jpeg", "png", "webp", "avif"])}),
)


@given(st.lists(ANY, min_size=1, max_size=20))
def test_the_prompt_of_any_operations_is_parsed_into_them(operations: list[dict[str, Any]]) -> None:
    wanted = [operation | ({"top": 0} if "left" in operation else {}) for operation in operations]
    assert [found.model_dump() for found in parse(as_prompt(LIST.validate_python(operations)))] == wanted


@pytest.mark.parametrize("operation", [found for found, _ in SAME])
def test_an_integer_may_be_written_as_a_decimal(operation: dict[str, Any]) -> None:
    """JSON Schema takes 92.0 for an integer, and some languages write each number so."""
    decimal = {name: float(value) if isinstance(value, int) else value for name, value in operation.items()}
    assert json.dumps(LIST.dump_python(LIST.validate_python([decimal]))) == json.dumps([operation])


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ({"op": "blur", "sigma": 101}, "sigma"),
        ({"op": "fit", "width": 92.5, "height": 92}, "width"),
        ({"op": "fit", "width": 92, "height": math.inf}, "height"),
        ({"op": "blur", "sigma": math.nan}, "sigma"),
        ({"op": "rotate", "degrees": True}, "degrees"),
        ({"op": "resize", "width": "800"}, "width"),
        ({"op": "resize"}, "resize"),
        ({"op": "crop", "width": 1}, "height"),
        ({"op": "crop", "width": 1, "height": 1, "left": -1}, "left"),
        ({"op": "watermark", "text": " \n"}, "text"),
        ({"op": "watermark", "text": "a\x07b"}, "text"),
        ({"op": "sepia", "strength": 5}, "strength"),
        ({"op": "smile"}, "0"),
    ],
)
def test_an_operation_with_a_wrong_value_is_refused_and_named(operation: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"(?m)^0.*\b{field}$" if field != "0" else "smile"):
        LIST.validate_python([operation])


def test_a_text_with_every_quotation_mark_is_refused_and_the_operation_named() -> None:
    typed = LIST.validate_python([{"op": "sepia"}, {"op": "watermark", "text": "\"”」'’"}])
    with pytest.raises(EditError, match=r"operations\.1\.watermark") as refused:
        as_prompt(typed)
    assert refused.value.code == "operation_invalid"


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("blur 5000", "blur sigma"),
        ("resize to 0x5", "resize width"),
        ("亮度+101", "brightness percent"),
        ("放大11倍", "scale percent"),
    ],
)
def test_a_value_out_of_range_in_a_prompt_names_the_operation(prompt: str, what: str) -> None:
    with pytest.raises(EditError, match=what) as refused:
        parse(prompt)
    assert refused.value.code == "prompt_out_of_range"


@pytest.mark.parametrize(
    "prompt",
    [
        "don't rotate", "no sepia", "not black and white", "不要旋转", "不要黑白", "change the colors", "enlarge 3",
        "放大3", "rotate 90 or 180", "crop the bottom right 400x300", "blur the background", "模糊背景", "亮度提高到50",
        "reduce the file size by 30%", "resize by 50%", "it's a bit blurry", "contrast 1.2", "watermark it",
        "add a watermark in the bottom left", "请把水印去掉", "水印去掉", "remove the watermark",
    ],
)  # fmt: skip
def test_a_prompt_that_could_mean_something_else_is_refused(prompt: str) -> None:
    assert understood(prompt) == "-"


def test_a_prompt_of_any_kind_is_parsed_quickly() -> None:
    """The API parses it before it answers. Each of these makes a pattern try again at every character."""
    pieces = ["一", "1", " ", "\n", "scale ", "到", "turn the ", "watermark ", '"', "1x", "缩放", "by 1% "]
    # If one of these could be read in two ways, the time would double with each repetition.
    pieces += ["转换", "存档", "另存为", "放大小", "翻转", "以内", "crop down ", "档案"]
    for piece in pieces:
        began = time.process_time()
        understood((piece * 2000)[:2000])
        assert time.process_time() - began < 0.5, piece
