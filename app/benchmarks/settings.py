"""The platform's settings, and what the benchmark compares it with."""

import os

from backend.settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.urls"
CELERY_IMPORTS = ["benchmarks.tasks"]
if os.environ.get("BENCHMARK_RESULT_COMPRESSION") == "none":
    CELERY_RESULT_COMPRESSION = None
