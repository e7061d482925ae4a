"""The lookup plugin of plugins/lookup/dashboards.py. molecule/default/test_dashboards.py tests the queries."""

from __future__ import annotations

import json
import re
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "plugins/lookup"))
import dashboards

BOARDS = {name: json.loads(text) for name, text in dashboards.generate().items()}


def test_all_dashboards_exist():
    assert {board["title"].removeprefix("Image Editor: ") for board in BOARDS.values()} == {
        "Overview", "Task pipeline", "Redis", "PostgreSQL", "Hosts",
    }  # fmt: skip
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)


def test_the_overview_begins_with_the_four_baselines():
    first = [panel["targets"][0]["expr"] for panel in BOARDS["overview.json"]["panels"][:4]]
    assert first == [
        "image_editor:task_seconds:mean5m",
        "image_editor:success_ratio:5m",
        "image_editor:redis_memory_bytes",
        "image_editor:database_connections",
    ]


def test_every_panel_uses_the_provisioned_data_source_and_fits():
    source = (ROOT / "roles/grafana/templates/datasources.yml.j2").read_text()
    (uid,) = re.findall(r"uid: (\S+)", source)
    for board in BOARDS.values():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == uid
            assert panel["targets"], panel["title"]
            place = panel["gridPos"]
            cells = {
                (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
            }
            assert max(x for x, _ in cells) < 24
            assert not cells & taken, f"{panel['title']} overlaps another panel"
            taken |= cells
