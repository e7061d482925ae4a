"""thumbor's engine over one image, run by a Python that has thumbor: ``python benchmarks/peer.py IMAGE TIMES``.

The engine is called without thumbor's server, which would add the time of a request.
"""

import json
import sys
import time
from pathlib import Path

from thumbor.config import Config
from thumbor.context import Context
from thumbor.engines.pil import Engine


def main(path: str, times: int) -> None:
    context = Context(config=Config())
    source, extension = Path(path).read_bytes(), Path(path).suffix
    used = 0.0
    for number in range(times + 1):
        used = 0.0 if number == 1 else used  # the first image also loads Pillow's plugins
        began = time.process_time()
        engine = Engine(context)
        engine.load(source, extension)
        width, height = engine.size
        scale = 512 / max(width, height)
        engine.resize(width * scale, height * scale)
        result = engine.read(extension, context.config.QUALITY)
        used += time.process_time() - began
    print(json.dumps({"cpu_ms": 1000 * used / times, "size": engine.size, "bytes": len(result)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
