"""Every panel of every dashboard shows data: its queries run against the platform's Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import sys

import pytest
from helpers import ROOT, until

sys.path += [str(ROOT / "scripts"), str(ROOT / "plugins/lookup")]
import dashboards
import figures

# Grafana's values of the variables: all hosts, and an interval that holds enough scrapes.
FILLED = {"$instance": ".*", "$__rate_interval": "5m"}
# Runs on the host of Prometheus, which listens on loopback. Prints the number of series for each query on stdin.
ASK = """
import json, sys, urllib.error, urllib.parse, urllib.request
found = []
for query in json.load(sys.stdin):
    url = "http://127.0.0.1:9090/prometheus/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        found.append(len(json.load(urllib.request.urlopen(url, timeout=20))["data"]["result"]))
    except urllib.error.HTTPError as error:
        sys.exit(query + ": " + error.read().decode())
print(json.dumps(found))
"""


def queries() -> list[str]:
    """Return the queries of all panels and variables as Prometheus gets them, each once."""
    found = []
    for board in map(json.loads, dashboards.generate().values()):
        found += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        found += [re.sub(r"label_values\((.+), \w+\)", r"\1", item["query"]) for item in board["templating"].get("list", [])]
    for name, value in FILLED.items():
        found = [query.replace(name, value) for query in found]
    assert not [query for query in found if "$" in query], "a variable has no value: add it to FILLED"
    return sorted(set(found))


def empty(host, asked: list[str]) -> list[str]:
    """Return the queries that return no series."""
    counts = json.loads(host.check_output("printf %%s %s | python3 -c %s", json.dumps(asked), ASK))
    return [query for query, count in zip(asked, counts, strict=True) if not count]


@pytest.fixture(scope="module")
def asked():
    found = queries()
    assert len(found) > 60, found
    return found


def test_every_query_of_every_dashboard_returns_data(on, asked):
    """Rates need two scrapes after the first edit, so the test waits for up to a minute."""
    silent = asked

    def answered():
        nonlocal silent
        silent = empty(on("monitor1"), silent)
        return not silent

    with contextlib.suppress(AssertionError):  # the figure below says which queries return nothing
        until("every query returns data", answered, 60)
    assert figures.record("dashboard_queries", len(asked), "queries", ">=60")["ok"]
    assert figures.record("dashboard_queries_empty", len(silent), "queries", "<=0")["ok"], "\n".join(silent)
