"""The table of docs/baseline.md has the numbers of its images and of the records in docs/baselines."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from conftest import ROOT, load

DOCUMENT = (ROOT / "docs/baseline.md").read_text()
RECORDS = sorted((ROOT / "docs/baselines").glob("*.json"))
# postgresql_replication is not measured: the nine hosts of the records have one database host.
FEATURES = {
    name: feature
    for name, feature in load(ROOT / "roles/feature/vars/main.yml")["__feature_known"].items()
    if name != "postgresql_replication"
}
# For each column of the table: the metric's name in a record and in an image, the factors from both, and the precision.
COLUMNS = [
    ("task_seconds_mean", "mean task time", 1000, 1000, 0.1),
    ("edit_seconds_p50", "acceptance to end, p50", 1000, 1000, 0.1),
    ("edit_seconds_p95", "acceptance to end, p95", 1000, 1000, 0.1),
    ("api_seconds_p50", "answer to a POST, p50", 1000, 1000, 0.1),
    ("redis_memory_bytes", "Redis memory", 1 / 2**20, 1, 0.1),
    ("database_connections", "database connections", 1, 1, 1),
]


def row(optimisation: str) -> list[list[float]]:
    """The numbers of the optimisation's row: off and on for each column."""
    (line,) = re.findall(rf"^\| \[{optimisation}\]\(images/baseline-{optimisation}\.svg\) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    return [[float(number) for number in cell.split(" → ")] for cell in line.split(" | ")]


def rounded(numbers: list[float], precision: float) -> object:
    """What a cell may have: the numbers, rounded. An image has rounded numbers already, so a half may go either way."""
    return pytest.approx(numbers, abs=0.51 * precision)


def pair(records: list[dict], switch: str, on: object) -> tuple[dict, dict]:
    """The two newest records between which this feature was switched on, and nothing else changed."""
    found = [
        (one, other)
        for one, other in pairwise(records)
        if [name for name in other["switches"] if one["switches"][name] != other["switches"][name]] == [switch]
        and other["switches"][switch] == on
    ]
    assert found, f"docs/baselines has no two records between which {switch} alone was switched on"
    return found[-1]


def test_every_measured_feature_has_a_row():
    assert re.findall(r"^\| \[(\w+)\]\(images/baseline-", DOCUMENT, re.MULTILINE) == list(FEATURES)


@pytest.mark.parametrize("optimisation", FEATURES)
def test_the_table_has_the_numbers_of_the_image(optimisation):
    image = (ROOT / f"docs/images/baseline-{optimisation}.svg").read_text()
    cells = []
    for _, title, _, factor, precision in COLUMNS:
        shown = re.search(rf">{title}</text>.*?>([\d.]+)[^<→]* → ([\d.]+)[^<]*</text>", image, re.DOTALL).groups()
        cells.append(rounded([float(number) * factor for number in shown], precision))
    assert row(optimisation) == cells


@pytest.mark.parametrize("optimisation", FEATURES)
def test_the_table_has_the_numbers_of_the_records(optimisation):
    feature = FEATURES[optimisation]
    one, other = pair([json.loads(path.read_text()) for path in RECORDS], feature["variable"], feature["values"][True])
    assert one["release"] == other["release"], "the two records measured two releases"
    metrics = [
        ([one["metrics"][key] * factor, other["metrics"][key] * factor], precision) for key, _, factor, _, precision in COLUMNS
    ]
    assert row(optimisation) == [rounded(*values) for values in metrics]
