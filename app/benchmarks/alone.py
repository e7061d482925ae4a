"""The engine alone: ``python -m benchmarks.alone IMAGE PROMPT SECONDS`` repeats an edit. Prints how many a second."""

import json
import sys
import time
from pathlib import Path

from image_editor.imaging.engines.local import create


def main(path: str, prompt: str, seconds: float) -> None:
    engine, source = create({}), Path(path).read_bytes()

    def edit() -> None:
        engine.edit(source, prompt, lambda _: None, "")

    edit()
    count, used, began = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() < began + seconds:
        edit()
        count += 1
    elapsed, used = time.perf_counter() - began, time.process_time() - used
    print(json.dumps({"per_second": count / elapsed, "cpu_ms": 1000 * used / count}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
