"""The local engine: how it understands prompts and changes pixels. Needs neither Django nor services."""

import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import pyvips
from conftest import APP

from benchmarks import hostile
from image_editor.imaging.engines import Described, Edited, EditError, EngineUnavailable, available, get, local
from image_editor.imaging.operations import Output, Scale

ENGINE = local.create({})


def run(source: bytes, prompt: str, **output: Any) -> Edited:
    return ENGINE.edit(source, prompt, lambda percent: None, "key", Output(**output) if output else None)


def pixels(edited: Edited) -> pyvips.Image:
    image = pyvips.Image.new_from_buffer(edited.data, "")
    assert (image.width, image.height) == (edited.width, edited.height)
    return image


def picture(suffix: str = ".png", width: int = 60, height: int = 40) -> bytes:
    """Four quarters: red top left, green top right, blue bottom left, white bottom right."""
    half = (width // 2, height // 2)
    tiles = [
        pyvips.Image.black(*half, bands=3) + colour for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3)
    ]
    image = pyvips.Image.arrayjoin([tile.cast("uchar") for tile in tiles], across=2)
    return image.copy(interpretation="srgb").write_to_buffer(suffix)


def transparent(suffix: str, width: int, height: int) -> bytes:
    return pyvips.Image.black(width, height, bands=4).copy(interpretation="srgb").write_to_buffer(suffix)


def corners(edited: Edited) -> str:
    """The colours of the four quarters, clockwise from top left, as letters."""
    image = pixels(edited)
    x, y = image.width // 4, image.height // 4
    points = [(x, y), (image.width - x, y), (image.width - x, image.height - y), (x, image.height - y)]
    letters = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w", (0, 0, 0): "k"}
    return "".join(letters[tuple(int(value > 127) for value in image(*point)[:3])] for point in points)


@pytest.mark.parametrize("name", available())
def test_engines_import_neither_django_nor_celery(name: str) -> None:
    code = f"import image_editor.imaging.engines.{name}, sys; print(*{{'django', 'celery'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=APP, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_engines_are_found_by_name() -> None:
    assert "local" in available()
    assert get("local") is get("local")
    with pytest.raises(LookupError, match="local"):
        get("os")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("convert to png", "rgwb"),
        ("rotate 90", "brgw"),
        ("rotate 90 degrees clockwise", "brgw"),
        ("旋转90度", "brgw"),
        ("旋转九十度", "brgw"),
        ("rotate right", "brgw"),
        ("rotate left", "gwbr"),
        ("rotate -90", "gwbr"),
        ("rotate 90 counterclockwise", "gwbr"),
        ("逆时针旋转90度", "gwbr"),
        ("向左旋转90度", "gwbr"),
        ("rotate 180", "wbrg"),
        ("flip horizontal", "grbw"),
        ("mirror", "grbw"),
        ("水平翻转", "grbw"),
        ("flip vertically", "bwgr"),
        ("上下翻转", "bwgr"),
        ("flip horizontal, rotate 90", "wgrb"),
        ("rotate 90, flip horizontal", "rbwg"),
        ("rotate 90 and rotate 90 then rotate 180", "rgwb"),
    ],
)
def test_rotations_and_flips_put_every_corner_in_its_place(prompt: str, expected: str) -> None:
    assert corners(run(picture(), prompt)) == expected


def test_inversion_turns_every_colour_into_its_opposite() -> None:
    image = pixels(run(picture(), "invert"))
    assert [image(10, 10), image(40, 30)] == [[0, 255, 255], [0, 0, 0]]


@pytest.mark.parametrize(
    ("prompt", "size"),
    [
        ("resize to 30x30", (30, 30)),
        ("resize to 30 x 20 px", (30, 20)),
        ("缩放到30x30", (30, 30)),
        ("调整大小为30×20像素", (30, 20)),
        ("resize to 30", (30, 20)),
        ("resize height 20", (30, 20)),
        ("宽度30", (30, 20)),
        ("高度20", (30, 20)),
        ("fit 30x30", (30, 20)),
        ("resize to fit within 30x30", (30, 20)),
        ("适应30x30", (30, 20)),
        ("resize 50%", (30, 20)),
        ("缩放200%", (120, 80)),
        ("crop 20x10", (20, 10)),
        ("crop to 20x10+40+30", (20, 10)),
        ("裁剪为20x10", (20, 10)),
        ("crop square", (40, 40)),
        ("裁剪为正方形", (40, 40)),
        ("rotate 90, resize to 30x20", (30, 20)),
        ("grayscale, rotate 90, resize to 30", (30, 45)),
        ("rotate 90, crop 20x10", (20, 10)),
        ("resize to 30x30, crop 10x10, rotate 90, blur", (10, 10)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_resizes_and_crops_give_the_requested_size_and_keep_the_format(
    prompt: str, size: tuple[int, int], suffix: str
) -> None:
    edited = run(picture(suffix), prompt)
    assert (edited.width, edited.height) == size
    assert pixels(edited).get("vips-loader") == {".jpg": "jpegload_buffer"}.get(suffix, f"{suffix[1:]}load_buffer")


def test_a_resize_while_decoding_looks_like_a_resize_after_decoding(photo: bytes) -> None:
    quick = pixels(run(photo, "greyscale, rotate 90, flip vertical, resize to 100x80"))
    original = pyvips.Image.new_from_buffer(photo, "")
    slow = original.recomb([[0.2126, 0.7152, 0.0722]]).rot90().flipver().thumbnail_image(100, height=80, size="force")
    assert (quick.extract_band(0) - slow).abs().avg() < 5


def test_a_crop_before_a_resize_is_done_first() -> None:
    assert corners(run(picture(), "crop 30x20+0+0, resize to 60x40")) == "rrrr"
    assert corners(run(picture(), "裁剪30x20+30+20，缩放到60x40")) == "wwww"


@pytest.mark.parametrize(
    "prompt",
    ["grayscale", "greyscale", "black and white", "黑白", "make it black and white", "把照片变成黑白", "灰度化"],
)
def test_greyscale_prompts_give_the_luminance(prompt: str) -> None:
    image = pixels(run(picture(), prompt))
    assert [image(10, 10), image(50, 10), image(10, 30)] == [[54] * 3, [182] * 3, [18] * 3]


def test_brightness_contrast_sepia_saturation_blur_and_sharpen_have_their_effect(photo: bytes) -> None:
    grey = (pyvips.Image.black(8, 8, bands=3) + 100).cast("uchar").copy(interpretation="srgb").write_to_buffer(".png")

    def value(prompt: str) -> list[float]:
        return pixels(run(grey, prompt))(4, 4)

    assert value("brightness +20") == value("亮度+20%") == value("brighter") == value("增加亮度20") == [120] * 3
    assert value("brightness -50") == value("亮度降低50%") == value("darken 50") == [50] * 3
    assert value("brightness +100, brightness +100") == [255] * 3
    assert value("contrast +50") == value("对比度+50") == value("increase contrast by 50") == [86] * 3
    assert value("contrast -100") == [128] * 3
    assert value("sepia") == value("复古") == [135, 120, 93]
    red = pixels(run(picture(), "saturation -100"))(10, 10)
    assert max(red) - min(red) <= 1
    soft, sharp = pixels(run(photo, "blur 3")), pixels(run(photo, "sharpen 2"))
    plain = pyvips.Image.new_from_buffer(photo, "")

    def edges(image: pyvips.Image) -> float:
        return image.colourspace("b-w").sobel().avg()

    assert edges(soft) < 0.7 * edges(plain) < 0.7 * edges(sharp)
    assert edges(pixels(run(photo, "模糊5"))) < edges(soft)


def test_a_blur_mixes_no_colour_of_transparent_pixels_into_others() -> None:
    """A red square in the middle of transparent black: its soft edge stays red, without a dark halo."""
    square = pyvips.Image.black(20, 20).new_from_image([255, 0, 0, 255]).copy(interpretation="srgb")
    blurred = pixels(run(square.embed(20, 20, 60, 60).write_to_buffer(".png"), "blur 5"))
    edge = [blurred(x, 30) for x in range(60) if 40 <= blurred(x, 30)[3] <= 200]
    assert len(edge) >= 8
    assert min(red for red, *_ in edge) >= 240
    assert blurred(0, 0)[3] == 0


@pytest.mark.parametrize(
    "prompt",
    ['watermark "© Grace, and Hopper"', "水印“你好，世界”", "add a watermark saying Hello World", "加水印：“<b>&”"],
)
def test_a_watermark_is_in_the_lower_right_corner(photo: bytes, prompt: str) -> None:
    marked, plain = pixels(run(photo, prompt + ", convert to png")), pyvips.Image.new_from_buffer(photo, "")
    assert marked.bands == 3
    difference = (marked - plain).abs()
    corner = difference.crop(plain.width // 2, plain.height * 3 // 4, plain.width // 2, plain.height // 4)
    assert corner.max() > 60
    assert difference.crop(0, 0, plain.width, plain.height // 2).max() == 0


def test_transparency_is_kept_if_the_format_supports_it() -> None:
    image = pyvips.Image.black(40, 40, bands=3).bandjoin(128).cast("uchar").copy(interpretation="srgb")
    source = image.write_to_buffer(".png")
    for prompt in ("greyscale", "brightness +10", "rotate 90", "resize to 20x20", "blur", "sharpen", 'watermark "x"'):
        assert pixels(run(source, prompt)).bands == 4, prompt
    assert pixels(run(source, "rotate 45"))(0, 0)[3] == 0
    assert pixels(run(source, "convert to jpeg"))(5, 5) == pytest.approx([127] * 3, abs=3)


@pytest.mark.parametrize("prompt", ["sepia, invert", "resize to 20x30, invert", "rotate 90, invert", "invert"])
def test_orientation_is_applied_and_metadata_removed(prompt: str) -> None:
    image = pyvips.Image.new_from_buffer(picture(".jpg"), "").copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)  # viewers turn the image clockwise
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Artist", "Somebody")
    image.set_type(pyvips.GValue.blob_type, "xmp-data", b"<x:xmpmeta/>")
    source = image.write_to_buffer(".jpg")
    assert b"Somebody" in source
    edited = run(source, prompt + ", invert")
    turned = {"sepia, invert": (40, 60), "invert": (40, 60), "resize to 20x30, invert": (20, 30)}
    assert (edited.width, edited.height) == turned.get(prompt, (60, 40))
    if prompt == "invert":
        assert corners(edited) == "brgw"
    result = pixels(edited)
    assert not {"orientation", "xmp-data", "exif-data", "icc-profile-data"} & set(result.get_fields())


@pytest.mark.parametrize("kind", ["grey", "grey-alpha", "16-bit", "cmyk", "palette"])
@pytest.mark.parametrize(
    "prompt", ["sepia", "resize to 20x20, sepia", "blur and sharpen", 'watermark "x"', "rotate 30"]
)
def test_other_colour_spaces_become_srgb(kind: str, prompt: str) -> None:
    colour = pyvips.Image.new_from_buffer(picture(), "")
    grey = colour.colourspace("b-w")
    source = {
        "grey": lambda: grey.write_to_buffer(".png"),
        "grey-alpha": lambda: grey.bandjoin(200).cast("uchar").copy(interpretation="b-w").write_to_buffer(".png"),
        "16-bit": lambda: colour.colourspace("rgb16").write_to_buffer(".png"),
        "cmyk": lambda: colour.colourspace("cmyk").write_to_buffer(".jpg"),
        "palette": lambda: colour.write_to_buffer(".png", palette=True),
    }[kind]()
    image = pixels(run(source, prompt))
    assert (image.bands, image.format) == (4 if kind == "grey-alpha" else 3, "uchar")


def outcome(source: bytes, prompt: str) -> str | None:
    """The code of the error, if there is one."""
    try:
        run(source, prompt)
    except EditError as error:
        return error.code
    return None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_damaged_image_is_an_error_of_the_client(suffix: str) -> None:
    whole = picture(suffix, 400, 300)
    for prompt in ("sepia", "resize to 20x20", "rotate 90"):
        for damaged in (whole[: len(whole) // 2], whole[:30], whole[:60] + b"\xff" * 40 + whole[100:]):
            code = outcome(damaged, prompt)
            assert code in ("image_corrupt", "image_unsupported", "image_too_large") or (
                code is None and len(damaged) == len(whole)
            ), "a truncated image was accepted, or the error code is wrong"


def test_other_image_formats_cannot_be_loaded() -> None:
    image = pyvips.Image.black(8, 8)
    refused = []
    for suffix in (".gif", ".tif", ".ppm", ".v"):
        try:
            data = image.write_to_buffer(suffix)
        except pyvips.Error:
            continue
        with pytest.raises(pyvips.Error):
            pyvips.Image.new_from_buffer(data, "")
        with pytest.raises(EditError, match="not a JPEG"):
            run(data, "sepia")
        refused.append(suffix)
    assert refused, "this libvips can write none of the formats"


def test_images_that_grow_too_large_are_refused() -> None:
    for prompt in (
        "resize to 16000x16000",
        "resize 1000%, resize 1000%, resize 1000%",
        "resize 1000%, " * 5 + "rotate 45",
    ):
        with pytest.raises(EditError, match="too large"):
            run(picture(), prompt)
    with pytest.raises(EditError, match="smaller rectangle"):
        run(picture(), "crop 61x10")


@pytest.mark.parametrize(
    "prompt",
    [
        "blur 3, blur 5",
        "blur, sharpen, blur 2",
        "rotate 30, blur 3, flip vertical",
        "blur 10, rotate 90, sepia, sharpen",
        "crop 300x300, resize to 200, blur 3",
        "sharpen, crop 100x100, blur 5",
        'blur, watermark "hi", rotate 180, blur',
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_materialised_images_have_the_pixels_of_one_pipeline(
    photo: bytes, monkeypatch: pytest.MonkeyPatch, prompt: str, in_memory: bool
) -> None:
    """libvips's interpolation depends by one level on the piece in which it computes a pixel."""
    if not in_memory:
        monkeypatch.setattr(local, "INTERMEDIATE_MAX_BYTES", 0)
    image = pixels(run(photo, "convert to png"))
    for op in local.parse(prompt):
        image = op.apply(image)
    assert (pixels(run(photo, prompt + ", convert to png")) - image).abs().max() <= 1


MEASURE = """
import json, resource, sys, time
from image_editor.imaging.engines import local
source, used = sys.stdin.buffer.read(), []
for times in (1, 3, 9):
    began = time.process_time()
    local.create({}).edit(source, ", ".join([sys.argv[1]] * times), lambda percent: None, "key")
    used.append([time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
print(json.dumps(used))
"""


@pytest.mark.parametrize("prompt", ["blur 50", "sharpen 10", "rotate 20, crop 1200x900", "blur 20, rotate 90"])
def test_time_grows_linearly_with_the_number_of_operations_and_memory_does_not_grow(prompt: str) -> None:
    command = [sys.executable, "-c", MEASURE, prompt]
    ran = subprocess.run(command, cwd=APP, input=picture(".png", 1200, 900), capture_output=True, check=True)
    (_, _), (three, some), (nine, many) = json.loads(ran.stdout)
    assert nine < 4.5 * three, f"3 times take {three:.2f} s, 9 times take {nine:.2f} s"
    assert many < some + 10, f"{some:.0f} MiB for 3 times, {many:.0f} MiB for 9 times"


PEAK = """
import resource, sys
from image_editor.imaging.engines import local
local.create({}).edit(sys.stdin.buffer.read(), sys.argv[1], lambda percent: None, "key")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(source: bytes, prompt: str) -> float:
    """MiB of a process that edits the image."""
    command = [sys.executable, "-c", PEAK, prompt]
    return float(subprocess.run(command, cwd=APP, input=source, capture_output=True, check=True).stdout)


def test_a_strong_shrink_takes_hardly_more_memory_than_a_weak_one() -> None:
    source = transparent(".png", 50, 40)
    weak, strong = (peak(source, f"resize to 8000x6000, resize to {size}") for size in ("400x300", "4x3"))
    assert strong < 1.3 * weak, f"{weak:.0f} MiB to 400x300, {strong:.0f} MiB to 4x3"


def test_a_webp_that_becomes_flat_takes_hardly_more_memory_than_one_that_keeps_its_size() -> None:
    source = transparent(".webp[lossless]", 4000, 4000)
    same, flat = (peak(source, f"{prompt}, convert to jpeg") for prompt in ("sepia", "resize to 4000x1"))
    assert flat < 1.3 * same, f"{same:.0f} MiB at its size, {flat:.0f} MiB to 4000x1"


def test_an_edit_that_cannot_end_in_time_is_refused_before_a_pixel_is_decoded() -> None:
    engine = local.create({"IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT": "10"})
    source = picture(".png", 3000, 2000)
    damaged = source[:-200] + bytes(200)  # whoever decodes it finds the damage
    hostile = "sepia, " + "blur 100, " * 5
    for call in (
        lambda: engine.check(hostile, source),
        lambda: engine.edit(damaged, hostile, lambda percent: None, "key"),
    ):
        with pytest.raises(EditError, match="blur 100") as refused:
            call()
        assert refused.value.code == "too_slow"
    engine.check(hostile)  # the size of an image by URL is not known yet
    engine.check("sepia, blur 100", source)
    engine.check("resize to 300, " + hostile, source)
    assert local.create({}).check(hostile, source) is None, "a longer time limit allows more"


def test_the_cost_does_not_depend_on_how_a_viewer_turns_the_image() -> None:
    """The API does not know the orientation. `resize height 2000` is possible for one orientation only."""
    engine = local.Local(50_000_000, 2)
    tall, wide = picture(".png", 20, 2000), picture(".png", 2000, 20)
    for source in (tall, wide):
        engine.check("resize height 2000, sharpen", source)
    for source in (tall, wide):
        with pytest.raises(EditError, match="sharpen 1"):
            engine.check("resize 700%, " + "sharpen, " * 10, source)


@pytest.mark.parametrize(
    ("suffix", "prompt", "hint"),
    [
        (".webp", "rotate 90", "jpeg or png"),
        (".jpg", "resize 200%, convert to webp", "jpeg or png"),
        (".jpg[interlace,subsample_mode=off]", "rotate 90", "interlacing"),
    ],
)
def test_an_edit_that_needs_too_much_memory_is_refused(
    suffix: str, prompt: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = picture(suffix, 1000, 500)
    run(source, prompt)
    monkeypatch.setattr(local, "CODEC_MAX_BYTES", 3_000_000)
    with pytest.raises(EditError, match=hint) as refused:
        run(source, prompt)
    assert refused.value.code == "image_too_large"
    run(picture(".jpg", 1000, 500), "rotate 90")


def test_the_memory_of_a_png_with_alpha_a_flat_webp_and_a_colour_profile_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "CODEC_MAX_BYTES", 3_000_000)
    run(picture(".png", 1000, 500), "rotate 90")
    run(transparent(".webp[lossless]", 700, 700), "resize to 350x350, convert to jpeg")
    for source, prompt, hint in (
        (transparent(".png", 1000, 500), "rotate 90", "4 MB"),
        (transparent(".webp[lossless]", 700, 700), "resize to 700x1, convert to jpeg", "jpeg or png"),
        (hostile.with_profile(picture(".png"), 1_000_000), "sepia", "colour profile"),
    ):
        with pytest.raises(EditError, match=hint) as refused:
            run(source, prompt)
        assert refused.value.code == "image_too_large"


def test_a_host_without_room_for_a_temporary_file_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "INTERMEDIATE_MAX_BYTES", 0)
    monkeypatch.setenv("TMPDIR", "/proc/none")
    with pytest.raises(EngineUnavailable):
        run(picture(), "blur 3, blur 3")


@pytest.mark.parametrize("text", ["\u200b", "\u200d\u200d"])
def test_a_watermark_that_cannot_be_seen_is_an_error_of_the_prompt(text: str) -> None:
    with pytest.raises(EditError) as refused:
        run(picture(), f'watermark "{text}"')
    assert refused.value.code == "prompt_out_of_range"


@pytest.mark.parametrize("prompt", ["blur 40", "blur 40, blur 40"])
def test_a_signal_whose_handler_raises_stops_the_work(prompt: str) -> None:
    """So a soft time limit and a cancellation arrive. libvips is at work, and calls Python only for the progress."""

    class Stop(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stop

    source = transparent(".png", 4000, 4000)
    used, before = time.process_time(), signal.signal(signal.SIGUSR2, stop)
    timer = threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGUSR2])
    timer.start()
    try:
        with pytest.raises(Stop):
            run(source, f"{prompt}, rotate 1")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR2, before)
    stopped = time.process_time() - used
    used = time.process_time()
    run(source, f"{prompt}, rotate 1")
    assert stopped < 0.7 * (time.process_time() - used), "the rest was not computed"


def test_progress_is_reported_and_can_stop_the_work() -> None:
    source = picture(".png", 2000, 2000)
    seen: list[int] = []
    ENGINE.edit(source, "sepia", seen.append, "key")
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] <= 100

    def stop(percent: int) -> None:
        raise TimeoutError(percent)

    with pytest.raises(TimeoutError):
        ENGINE.edit(source, "sepia", stop, "key")


def test_progress_is_reported_while_an_intermediate_image_is_computed() -> None:
    source, prompt, seen = picture(".png", 2000, 2000), "blur 3, blur 3, blur 3, blur 3", []
    ENGINE.edit(source, prompt, seen.append, "key")
    assert seen == sorted(seen)
    assert seen[0] < 75 < seen[-1] <= 100, "saving is the last quarter"

    def stop(percent: int) -> None:
        raise TimeoutError(percent)

    with pytest.raises(TimeoutError) as stopped:
        ENGINE.edit(source, prompt, stop, "key")
    assert stopped.value.args[0] < 75


@pytest.mark.parametrize(
    ("prompt", "output", "kind"),
    [
        ("sepia", {"format": "webp"}, "image/webp"),
        ("convert to png", {"format": "jpeg"}, "image/jpeg"),
        ("convert to png", {"quality": 50}, "image/png"),
        ("sepia", {"format": "avif"}, "image/avif"),
        ("convert to avif", {"quality": 30}, "image/avif"),
    ],
)
def test_the_result_has_the_format_of_the_output_or_of_the_prompt(
    photo: bytes, prompt: str, output: dict[str, Any], kind: str
) -> None:
    edited = run(photo, prompt, **output)
    assert edited.content_type == kind
    assert (edited.width, edited.height) == (512, 600)
    if kind == "image/avif":  # no loader of AVIF is allowed here
        assert (edited.extension, edited.data[4:12]) == ("avif", b"ftypavif")
    else:
        assert pixels(edited).width == 512


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_a_lower_quality_makes_a_smaller_file(photo: bytes, kind: str) -> None:
    low, usual, high = (len(run(photo, "sepia", format=kind, quality=q).data) for q in (20, None, 95))
    assert low < 0.7 * usual < 0.7 * high
    assert len(run(photo, "sepia", format=kind, max_bytes=usual).data) == usual, "it is small enough already"


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("prompt", ["sepia", "blur 0.5, rotate 90"])
def test_the_result_is_as_large_as_the_bytes_allow(photo: bytes, kind: str, prompt: str) -> None:
    """Halving ends within a few levels of the best quality, which are at most a third of the size."""
    most = len(run(photo, prompt, format=kind).data) * 2 // 3
    edited = run(photo, prompt, format=kind, max_bytes=most)
    assert most * 2 // 3 < len(edited.data) <= most


@pytest.mark.parametrize(("kind", "instead"), [("jpeg", "quality 10"), ("png", "webp or jpeg")])
def test_a_result_that_cannot_become_small_enough_is_an_error_of_the_client(
    photo: bytes, kind: str, instead: str
) -> None:
    with pytest.raises(EditError, match=instead) as refused:
        run(photo, "sepia", format=kind, max_bytes=500)
    assert refused.value.code == "output_too_large"


def test_saving_counts_as_often_as_it_may_be_repeated() -> None:
    source, engine = picture(".png", 2000, 1000), local.create({})
    engine.check("sepia", source, Output(format="avif"))
    with pytest.raises(EditError, match="saving as avif") as refused:
        local.Local(50_000_000, 10).check("sepia", source, Output(format="avif", max_bytes=10_000))
    assert refused.value.code == "too_slow"
    with pytest.raises(EditError, match="another format than avif") as refused:
        engine.check("resize to 3000x2000", source, Output(format="avif"))
    assert refused.value.code == "image_too_large"


@pytest.mark.parametrize(("prompt", "output"), [("convert to avif", None), ("sepia", Output(format="avif"))])
def test_avif_is_refused_where_libvips_cannot_save_it(
    monkeypatch: pytest.MonkeyPatch, prompt: str, output: Output | None
) -> None:
    monkeypatch.setattr(local, "saves_avif", lambda: False)
    with pytest.raises(EditError, match="jpeg, png or webp") as refused:
        ENGINE.check(prompt, None, output)
    assert refused.value.code == "format_unavailable"


def test_a_plan_tells_what_a_prompt_means_and_what_it_costs() -> None:
    plan = ENGINE.plan("放大2倍", None, Described("jpeg", 1000, 500))
    assert plan.operations == (Scale(op="scale", percent=200.0),)
    assert (plan.format, plan.width, plan.height, plan.seconds_max) == ("jpeg", 2000, 1000, 25)
    assert 0.1 < plan.seconds < 0.5
    unknown = ENGINE.plan("放大2倍", Output(format="webp"))
    assert (unknown.format, unknown.width, unknown.height, unknown.seconds) == ("webp", None, None, None)
    for prompt, image, code in (
        ("blur 100, " * 9, Described("png", 4000, 3000), "too_slow"),
        ("sepia", Described("png", 60_000, 2), "image_too_large"),
        ("smile", None, "prompt_unknown"),
    ):
        with pytest.raises(EditError) as refused:
            ENGINE.plan(prompt, None, image)
        assert refused.value.code == code
