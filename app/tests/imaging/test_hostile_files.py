"""Files that are made to cost much: of many pixels, of thousands of parts, cut, or saying what is not so.

Each is checked and edited as a worker does it, in a process that can be killed: nothing interrupts libvips.
"""

import itertools
import multiprocessing
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyvips

from benchmarks.hostile import chunk
from image_editor.imaging import inspection

PIXELS_MAX = 50_000_000
SECONDS_MAX = 30
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of PNG


def png(
    depth: int, colour: int, side: int = 7000, interlaced: bool = False, extra: bytes = b"", rows: int = 0
) -> bytes:
    """A black PNG. With ``rows``, its pixels end after so many."""
    packed = zlib.compressobj(1)
    pixels = b""
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        width, height = -(-(side - left) // across), -(-(side - top) // down)
        row = bytes(1 + -(-width * depth * CHANNELS[colour] // 8))
        pixels += b"".join(packed.compress(row) for _ in range(rows or height))
    pixels += packed.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(3) * 2**depth) if colour == 3 else b""
    return inspection.PNG + head + extra + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpegs() -> Iterator[tuple[str, bytes]]:
    black = pyvips.Image.black(6500, 6500, bands=3).copy(interpretation="srgb")
    whole = black.write_to_buffer(".jpg", interlace=True, Q=10, subsample_mode="off")
    yield "progressive", whole
    scans = [at for at in range(len(whole) - 1) if whole[at : at + 2] == b"\xff\xda"]
    yield "progressive, cut after its first scan", whole[: scans[1]] + b"\xff\xd9"
    yield "progressive, cut in its first scan", whole[: scans[0] + 200] + b"\xff\xd9"
    last = whole[whole.rfind(b"\xff\xc4", 0, scans[-1]) : -2]  # with its table
    for times in (20, 90):
        yield f"progressive, its last scan {times} times", whole[:-2] + last * times + b"\xff\xd9"
    baseline = pyvips.Image.black(7000, 7000).write_to_buffer(".jpg", Q=10)
    yield "baseline", baseline
    restarting = pyvips.Image.black(7000, 7000).write_to_buffer(".jpg", Q=10, restart_interval=1)
    yield "a restart mark after each block", restarting
    yield "cut in the middle", baseline[: len(baseline) // 2] + b"\xff\xd9"
    small = pyvips.Image.black(1000, 1000).write_to_buffer(".jpg")
    profile = [b"ICC_PROFILE\0" + bytes([number, 255]) + bytes(65519) for number in range(1, 256)]
    entries = struct.pack(">HHII", 0x9286, 7, 2**31, 8) * 5000
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + entries + struct.pack(">I", 8)
    for name, segments in {
        "9,000 empty segments": segment(0xE5, b"") * 9000,
        "20 MiB of empty segments": segment(0xE5, b"") * 5_000_000,
        "16 MiB of comments": segment(0xFE, bytes(65533)) * 250,
        "16 MiB of colour profile": b"".join(segment(0xE2, part) for part in profile),
        "EXIF that leads to itself": segment(0xE1, exif),
    }.items():
        yield name, small[:2] + segments + small[2:]


def pngs() -> Iterator[tuple[str, bytes]]:
    kinds = ((1, 0), (2, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (8, 3), (8, 4), (16, 4), (8, 6), (16, 6))
    for (depth, colour), interlaced in itertools.product(kinds, (False, True)):
        name = f"{depth} bits, colour type {colour}{', interlaced' * interlaced}"
        yield name, png(depth, colour, 7000 if colour == 0 and interlaced else 2000, interlaced)
    text = chunk(b"tEXt", b"k\0v")
    bomb = zlib.compress(bytes(200_000_000))
    for name, extra in {
        "9,000 texts": text * 9000,
        "a million texts": text * 1_000_000,
        "a text of 200 MB, packed": chunk(b"zTXt", b"k\0\0" + bomb),
        "90 texts of 200 MB, packed": chunk(b"zTXt", b"k\0\0" + bomb) * 90,
        "an international text of 200 MB, packed": chunk(b"iTXt", b"k\0\1\0\0\0" + bomb),
        "a colour profile of 200 MB, packed": chunk(b"iCCP", b"p\0\0" + bomb),
        "EXIF of 16 MB": chunk(b"eXIf", b"MM\0*\0\0\0\x08" + bytes(16_000_000)),
        "a million unknown chunks": chunk(b"teSt", b"") * 1_000_000,
        "a palette that it does not need": chunk(b"PLTE", bytes(768)),
    }.items():
        yield name, png(8, 2, 1000, extra=extra)
    yield "one row of pixels", png(1, 0, rows=1)
    yield "one row of pixels, interlaced", png(16, 6, 4000, True, rows=1)
    yield "no end", png(8, 6, 1000)[:-12]
    empty = chunk(b"IDAT", b"")
    whole = png(1, 0)
    at = whole.index(b"IDAT") - 4
    yield "a million empty parts of pixels", whole[:at] + empty * 1_000_000 + whole[at:]
    yield "one pixel high", png(1, 0, 2).replace(struct.pack(">II", 2, 2), struct.pack(">II", 25_000_000, 2), 1)


def webps() -> Iterator[tuple[str, bytes]]:
    def riff(parts: bytes) -> bytes:
        return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts

    def extended(flags: int, side: int, parts: bytes) -> bytes:
        size = (side - 1).to_bytes(3, "little")
        return riff(b"VP8X\x0a\0\0\0" + bytes([flags, 0, 0, 0]) + size + size + parts)

    picture = pyvips.Image.black(3000, 3000, bands=4).copy(interpretation="srgb")
    lossy, lossless = (picture.write_to_buffer(".webp", lossless=how, effort=0) for how in (False, True))
    yield "lossy, with alpha", lossy
    yield "lossless", lossless
    for name, data in (("lossy", lossy), ("lossless", lossless)):
        yield f"{name}, cut", data[:4] + struct.pack("<I", len(data) // 2 - 8) + data[8 : len(data) // 2]
    frame = b"ANMF\x18\0\0\0" + bytes(24)
    yield "200,000 empty frames", extended(2, 7000, b"ANIM\x06\0\0\0" + bytes(6) + frame * 200_000)
    yield "9,000 frames that say they are none", extended(0, 7000, frame * 9000)
    yield "9,000 unknown chunks", extended(0, 7000, b"teSt\0\0\0\0" * 9000)
    yield "a million unknown chunks", extended(0, 7000, b"teSt\0\0\0\0" * 1_000_000)
    yield "9,000 unknown chunks before the picture", extended(16, 7000, b"teSt\0\0\0\0" * 9000 + lossless[12:])
    yield "16 MB of XMP", extended(4, 7000, b"XMP " + struct.pack("<I", 16_000_000) + bytes(16_000_000) + lossless[12:])
    yield "no picture", extended(0, 7000, b"")


def others() -> Iterator[tuple[str, bytes]]:
    yield "an SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='7000' height='7000'/>"
    yield "a GIF", b"GIF89a" + bytes(1000)
    yield "20 MiB of FF", b"\xff\xd8" + b"\xff" * (20 * 2**20 - 2)
    yield "nothing", b""


def edit(data: bytes, answer: Any) -> None:
    """What a worker does with an image. Sends the outcome and the seconds that it took."""
    from image_editor.imaging.engines import EditError, local

    engine, began, outcome = local.create({}), time.perf_counter(), "done"
    try:
        inspection.check(data, PIXELS_MAX, 2)
        engine.edit(data, "sepia", lambda _: None, "key")
    except (EditError, inspection.Unacceptable) as error:
        outcome = error.code
    answer.send((outcome, time.perf_counter() - began))


def test_no_file_holds_a_worker_for_long(figure: Callable) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["image_editor.imaging.engines.local"])
    taken: dict[str, tuple[float, str]] = {}
    for format, files in (("jpeg", jpegs()), ("png", pngs()), ("webp", webps()), ("", others())):
        for name, data in files:
            answer, sender = processes.Pipe(duplex=False)
            child = processes.Process(target=edit, args=(data, sender))
            child.start()
            outcome, seconds = answer.recv() if answer.poll(2 * SECONDS_MAX) else ("none", 2 * SECONDS_MAX)
            child.kill()
            child.join()
            taken[f"{format} {name}"] = seconds, outcome
            print(f"{seconds:5.2f} s  {outcome:18} {len(data):9} B  {format} {name}", flush=True)
    assert len(taken) >= 60
    assert sum(outcome == "done" for _, outcome in taken.values()) > 30, "most are not refused by their header"
    figure("hostile_file_seconds_max", round(max(seconds for seconds, _ in taken.values()), 1), "s", limit=SECONDS_MAX)
