"""Generate docs/alerts.md from the alert folders in roles/prometheus/files/alerts; with --check, exit 1 if it differs."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import jinja2
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "plugins/lookup"))
from alert_folders import folders, read  # noqa: E402
from generated import update  # noqa: E402

DIRECTORY = ROOT / "roles/prometheus/files/alerts"
PAGE = ROOT / "docs/alerts.md"

PREAMBLE = """\
# Alerts

Generated from the runbooks in `roles/prometheus/files/alerts/` by `scripts/alerts.py`. Behind the edge, the same runbooks are at
`/prometheus/consoles/runbooks.html`, together with those of the alerts in your inventory. Every alert links to its runbook there,
or on the page that `prometheus_runbooks_url` names (annotation `runbook_url`).

A `critical` alert needs somebody now. A `warning` can wait until the morning. Watchdog (`none`) needs nobody. A condition must
last `prometheus_alert_delay` (2 minutes; 20 seconds in the lab) before its alert fires, unless the rule says otherwise. An alert
ends when its host or process is removed.

An environment changes a threshold in `group_vars/all`:

```yaml
prometheus_thresholds: {queue_age_seconds: 60}
```

Run `ansible-playbook` and `make` in the checkout on the controller, after `export PATH=$PWD/.venv/bin:$PATH`. `<yours>` is the
environment of the alert, a folder of `inventories/`. The vault needs its password (`ANSIBLE_VAULT_PASSWORD_FILE`). Run the
commands on hosts as root.

Look first at `/prometheus/consoles/index.html` behind the edge, then at `make status ENV=<yours>`. On the host, read the journal:

    journalctl -u 'image-editor-*' --since -15min

To silence an alert while you work on it, on the monitoring host:

    export ALERTMANAGER_URL=http://127.0.0.1:9093/alertmanager
    amtool silence add alertname=HostDisk instance=db1 --duration=2h --comment='disk is being grown'

[monitoring.md](monitoring.md#add-an-alert) says how to add an alert.
"""


# Words of the sentence before a command, and the groups of the inventory on whose hosts the command then runs.
PLACES = {
    "on the host": ["all"],
    "edge host": ["edge"],
    "edge or media host": ["edge", "media"],
    "media host": ["media"],
    "web host": ["web"],
    "worker host": ["worker"],
    "scheduler's host": ["scheduler"],
    "database's host": ["postgresql"],
    "etcd host": ["etcd"],
    "backup host": ["backup"],
    "monitoring host": ["monitoring"],
    "node": ["redis"],
    "sentinel": ["redis_sentinel"],
}


@dataclass(frozen=True)
class Command:
    """A command in the alerts' page: its line, and the groups on whose hosts it runs. The controller counts as a group."""

    groups: tuple[str, ...]
    line: str

    @property
    def programs(self) -> list[list[str]]:
        """The words of each program in the pipeline."""
        lexer = shlex.shlex(self.line, posix=True, punctuation_chars="|&")
        lexer.whitespace_split, lexer.commenters = True, ""
        return [list(words) for joins, words in groupby(lexer, lambda word: set(word) <= set("|&")) if not joins]

    @property
    def units(self) -> list[str]:
        """The systemd units, as patterns: a word in capitals stands for any name."""
        found = []
        for program, *words in self.programs:
            if program == "systemctl":
                found += [word for word in words[1:] if not word.startswith("-")]  # words[0] is the verb
            if program == "journalctl":
                found += [word for option, word in pairwise(words) if option == "-u"]
        return [re.sub(r"[A-Z]{2,}", "*", unit) for unit in found]

    @property
    def files(self) -> list[str]:
        """The paths, as patterns."""
        return [word.rstrip("/") for words in self.programs for word in words[1:] if re.match(r"/\w", word)]


def commands(page: str) -> Iterator[Command]:
    """Yield each command of the page. Its place is in the sentence before it, or before an earlier command of the same alert."""
    groups: list[str] = []
    for paragraph in re.split(r"\n\n+", page):
        if paragraph.startswith("### "):
            groups = []
        elif paragraph.startswith("    "):
            for line in map(str.strip, paragraph.splitlines()):
                yield Command(("controller",) if line.startswith("ansible-playbook ") else tuple(dict.fromkeys(groups)), line)
        elif paragraph.endswith(":"):
            groups = [group for words, where in PLACES.items() if words in paragraph.lower() for group in where] or groups


def rules(alert: dict, **variables: object) -> list[dict]:
    """Return the rules of an alert folder with the default thresholds, each with the name of its group as ``group``."""
    text = Path(alert["rule"]).read_text()
    if alert["rule"].endswith(".j2"):
        environment = jinja2.Environment(variable_start_string="<<", variable_end_string=">>", undefined=jinja2.StrictUndefined)
        values = {"alert_delay": "2m", "threshold": alert["thresholds"], "prometheus_backup_kinds": ["postgresql", "redis"]}
        text = environment.from_string(text).render(values | variables)
    return [{**rule, "group": group["name"]} for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def section(alert: dict) -> str:
    """Return the section of one alert: its severities and thresholds, then its runbook."""
    severities = dict.fromkeys(f"*{rule['labels']['severity']}*" for rule in rules(alert))
    lines = [f"### {alert['name']}", " or ".join(severities)]
    if alert["thresholds"]:
        lines += ["", "Thresholds: " + ", ".join(f"`{name}: {value}`" for name, value in alert["thresholds"].items())]
    runbook = alert["runbook"].split("\n", 1)[1].strip()  # without its title
    runbook = re.sub(r"^## ", "#### ", runbook, flags=re.MULTILINE)
    return "\n".join(lines) + "\n\n" + re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](\1)", runbook) + "\n"


def generate() -> str:
    """Return the text of docs/alerts.md."""
    groups: dict[str, list[dict]] = {}
    for alert in map(read, folders([str(DIRECTORY)])):
        groups.setdefault(rules(alert)[0]["group"], []).append(alert)
    parts = [PREAMBLE]
    for group, alerts in sorted(groups.items()):
        names = ", ".join(f"[{alert['name']}](#{alert['name'].lower()})" for alert in alerts)
        parts += [f"## {group}\n\n{names}\n", *map(section, alerts)]
    return "\n".join(parts)


def main(arguments: Iterable[str]) -> int:
    """See the module's docstring."""
    return update(PAGE, generate(), "alerts", __file__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
