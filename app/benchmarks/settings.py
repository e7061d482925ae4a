"""The platform's settings, and what the benchmark compares it with."""

from backend.settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.urls"
CELERY_IMPORTS = ["benchmarks.tasks"]
