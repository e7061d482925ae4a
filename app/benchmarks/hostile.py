"""Edits that are made to cost much: ``python -m benchmarks worst`` runs each of them in a process of its own.

Every operation is repeated as often as the engine accepts. Besides them there are the images whose decoder or encoder
works on the whole image. An edit ends in time and within the memory, or the engine refuses it before it starts.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

APP = Path(__file__).parent.parent

# (image, prompt). "* " in front: the rest is repeated, up to 20 operations, as often as the engine accepts.
EDITS = [
    ("black.png", "blur 100, " * 20),
    ("black.png", "* blur 100"),
    ("black.png", "* blur 3"),
    ("black.png", "* sharpen 10"),
    ("black.png", "* sharpen 0.3"),
    ("black.png", "* rotate 30, crop 4000x3000"),
    ("black.png", "* blur 100, rotate 90"),
    ("black.png", "* blur 20, rotate 1, crop 3900x2900"),
    ("black.png", "* resize 200%, resize 50%"),
    ("black.png", "* resize to 16000x3125, resize to 3125x16000"),
    ("black.png", "* resize to 4x3, resize to 8000x6000"),
    ("black.png", '* watermark "WWWWWWWW"'),
    ("noise.jpg", "* sepia"),
    ("noise.jpg", "* blur 50"),
    ("noise.jpg", "* sharpen 1"),
    ("noise.jpg", "blur 1, blur 1, blur 1, convert to png"),
    ("noise.jpg", "convert to png"),
    ("noise.jpg", "convert to webp"),
    ("noise.jpg", "resize to 2500x2000, convert to avif"),
    ("noise.jpg", "convert to avif"),
    ("noise.jpg", "crop 5700x4900, blur 0.3, blur 0.3, blur 0.3, convert to webp"),
    ("noise.jpg", "crop 5000x4200, blur 0.3, blur 0.3, blur 0.3, convert to webp"),
    ("progressive.jpg", "rotate 90"),
    ("progressive.jpg", "blur 1, blur 1, rotate 90"),
    ("progressive.jpg", "convert to webp"),
    ("interlaced16.png", "blur 1, rotate 90"),
    ("lossless.webp", "blur 1, blur 1"),
    ("lossless.webp", "resize to 3900, blur 1, blur 1"),
    ("lossless.webp", "convert to jpeg, rotate 90"),
    ("lossless.webp", "resize to 7000x1, convert to jpeg"),
    ("lossless.webp", "resize to 7000x5000, convert to jpeg"),
    ("alpha.png", "resize to 6101x6102"),
    ("alpha.png", "resize to 2200x2200, convert to avif"),
    ("profile.png", "sepia"),
    ("noise.webp", "blur 0.3, blur 0.3, rotate 90"),
]


def images() -> dict[str, Callable[[], bytes]]:
    """What makes each image. All have up to 50 megapixels and 20 MiB."""
    import pyvips

    def black(width: int, height: int, bands: int) -> pyvips.Image:
        return pyvips.Image.black(width, height, bands=bands).copy(interpretation="srgb")

    def noise(width: int, height: int) -> pyvips.Image:
        bands = [pyvips.Image.gaussnoise(width, height, mean=128, sigma=40, seed=seed) for seed in (1, 2, 3)]
        return bands[0].bandjoin(bands[1:]).cast("uchar").copy(interpretation="srgb")

    def deep() -> pyvips.Image:
        return black(5000, 5000, 4).cast("ushort").copy(interpretation="rgb16")

    def tiled(side: int) -> pyvips.Image:
        """Noise with alpha, whose PNG is small."""
        tile = noise(64, 64).bandjoin(noise(64, 64)[0]).copy_memory()
        times = side // 64 + 1
        image = tile.replicate(times, times).crop(0, 0, side, side).copy(interpretation="srgb")
        return image.write_to_buffer(".png", compression=9)

    return {
        "black.png": lambda: black(4000, 3000, 4).write_to_buffer(".png"),
        "noise.jpg": lambda: noise(8000, 6250).write_to_buffer(".jpg", Q=30),
        "progressive.jpg": lambda: noise(8000, 5400).write_to_buffer(
            ".jpg", Q=10, interlace=True, subsample_mode="off"
        ),
        "interlaced16.png": lambda: deep().write_to_buffer(".png", interlace=True),
        "alpha.png": lambda: tiled(6100),
        "profile.png": lambda: with_profile(black(4000, 3000, 3).write_to_buffer(".png"), 30_000_000),
        "lossless.webp": lambda: black(7000, 5000, 4).write_to_buffer(".webp", lossless=True, effort=0),
        "noise.webp": lambda: noise(4450, 3650).write_to_buffer(".webp", Q=60, effort=0),
    }


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_profile(png: bytes, size: int) -> bytes:
    """The PNG with a colour profile of zeros, which is small in the file."""
    return png[:33] + chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(size))) + png[33:]  # after the header


def measured() -> Iterator[tuple[str, dict[str, float], str]]:
    """The name of each edit, its seconds and MiB, and "done" or the error code."""
    from image_editor.imaging import inspection

    with tempfile.TemporaryDirectory() as folder:
        for name, make in images().items():
            path = Path(folder, name)
            path.write_bytes(make())
            width, height = inspection.size(path.read_bytes()) or (0, 0)
            assert width * height <= 50_000_000, name
            assert path.stat().st_size <= 20 * 2**20, name
        for name, prompt in EDITS:
            result = run(Path(folder, name), prompt)
            yield f"{name} {prompt}", result["measured"], result["outcome"]


def run(path: Path, prompt: str) -> dict[str, Any]:
    """Edit the image in a new process that has loaded what a worker has."""
    command = [sys.executable, "-m", "benchmarks.hostile", str(path), prompt]
    env = os.environ | {"VIPS_CONCURRENCY": "1", "MALLOC_ARENA_MAX": "2"}  # as roles/celery
    return json.loads(subprocess.run(command, cwd=APP, env=env, check=True, capture_output=True, text=True).stdout)


def main(path: str, prompt: str) -> None:
    import django

    django.setup()
    from image_editor.imaging import engines
    from image_editor.pipeline import attempts  # noqa: F401 - its modules take memory in a worker

    engine, source = engines.get("local"), Path(path).read_bytes()
    if prompt.startswith("* "):
        repeated = prompt.removeprefix("* ")
        prompts = [", ".join([repeated] * times) for times in range(20 // len(repeated.split(",")), 0, -1)]
        prompt = next((prompt for prompt in prompts if _accepted(engine, prompt, source)), repeated)
    began, used, outcome = time.perf_counter(), time.process_time(), "done"
    try:
        engine.edit(source, prompt, lambda _: None, "")
    except engines.EditError as error:
        outcome = error.code
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    measured = {"seconds": seconds, "cpu_seconds": cpu_seconds, "mib": int(peak.split()[1]) / 1024}
    print(json.dumps({"measured": measured, "outcome": outcome, "prompt": prompt}))


def _accepted(engine: Any, prompt: str, source: bytes) -> bool:
    from image_editor.imaging import engines

    try:
        engine.check(prompt, source)
    except engines.EditError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
