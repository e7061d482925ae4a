"""Every alert is one complete folder, with a unit test in which it fires and one in which it ends. Watchdog never ends."""

from __future__ import annotations

import importlib.util
import re
import sys
from fnmatch import fnmatch
from functools import cache

import pytest
import yaml
from conftest import INVENTORIES, PLAYBOOKS, ROOT, load

sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "plugins/lookup"))
import alerts
from alert_folders import folders, read

spec = importlib.util.spec_from_file_location("prometheus_filters", ROOT / "plugins/filter/prometheus.py")
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)

PLATFORM = folders([str(alerts.DIRECTORY)])
FOLDERS = PLATFORM + folders([str(directory / "alerts") for directory in INVENTORIES])
COMMANDS = list(alerts.commands(alerts.PAGE.read_text()))
RECORDING_RULES = sorted((ROOT / "roles/prometheus/files/recording_rules").glob("*.yml"))


def test_alert_folders_were_found():
    assert len(PLATFORM) >= 49


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_alert_folder_is_complete(folder):
    alert = read(folder)
    for rule in alerts.rules(alert):
        assert rule["alert"] == folder.name
        assert rule["labels"]["severity"] in (("none",) if folder.name == "Watchdog" else ("critical", "warning"))
        assert rule["annotations"]["summary"]
        assert "flower_worker_online" not in rule["expr"], "Flower never removes a dead worker from this metric"
    headings = re.findall(r"^#+ (.+)", alert["runbook"], re.MULTILINE)
    assert headings == [folder.name, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    tests = [
        test["exp_alerts"]
        for group in alert["tests"]
        for test in group.get("alert_rule_test", [])
        if test["alertname"] == folder.name
    ]
    assert [expected for expected in tests if expected], "no unit test in which the alert fires"
    assert [] in tests or folder.name == "Watchdog", "no unit test in which the alert does not fire"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_threshold_is_used_in_its_own_folder(folder):
    alert = read(folder)
    used = set(re.findall(r"\bthreshold\.(\w+)", (folder / "rule.yml.j2").read_text())) if alert["rule"].endswith("j2") else set()
    assert used == set(alert["thresholds"])


def test_no_two_folders_have_the_same_threshold():
    names = [name for folder in FOLDERS for name in read(folder)["thresholds"]]
    assert len(names) == len(set(names))


def test_no_two_rules_have_the_same_name_and_labels():
    """Prometheus refuses such a file."""
    found = [rule for folder in PLATFORM for rule in alerts.rules(read(folder))]
    names = [(rule["alert"], tuple(sorted(rule["labels"].items()))) for rule in found]
    assert len(names) == len(set(names))


def test_every_summary_is_translated():
    """With the same values in it. A translation that no alert has any more is found, too."""
    rules = [rule for folder in PLATFORM for rule in alerts.rules(read(folder))]
    summaries = {rule["annotations"]["summary"] for rule in rules}
    thresholds = {name: value for folder in PLATFORM for name, value in read(folder)["thresholds"].items()}
    for path in (ROOT / "roles/prometheus/files/summaries").iterdir():
        (text,) = filters.prometheus_rule_texts([{"rule": path}], {"threshold": thresholds})
        translated = yaml.safe_load(text)
        assert set(translated) == summaries
        for english, other in translated.items():
            assert sorted(re.findall("{{.*?}}", english)) == sorted(re.findall("{{.*?}}", other)), english
            assert english != other


def test_the_alerts_page_is_up_to_date():
    assert alerts.PAGE.read_text() == alerts.generate(), "run .venv/bin/python scripts/alerts.py"


def test_the_alerts_page_has_a_section_for_every_alert():
    sections = re.findall(r"^### (\w+)\n\*(?:critical|warning|none)\*", alerts.PAGE.read_text(), re.MULTILINE)
    assert sorted(sections) == [folder.name for folder in PLATFORM]


@cache
def roles_on(group: str) -> dict[str, str]:
    """The roles that playbooks run on the hosts of a group, each with its text, in which ``*`` stands for a template."""
    plays = [play for path in PLAYBOOKS for play in load(path) if {group, "all"} & set(re.split(r"\W", play.get("hosts", "")))]
    names = {name for play in plays for name in re.findall(r"'(?:role|name)': '(\w+)'", str(play))}
    if names & {"media", "operators"}:
        names.add("nginx")  # these roles run it
    texts = {name: [path.read_text() for path in (ROOT / "roles" / name).rglob("*.yml")] for name in names}
    return {name: re.sub(r"{{.*?}}", "*", "\n".join(text)) for name, text in texts.items()}


@cache
def units_on(group: str) -> list[str]:
    """Patterns of the systemd units of these roles. A unit that a role installs on some of its hosts counts for all of them."""
    named = re.compile(r'(?:systemd_service_name: "?|^ +name: (?=.*\.service$))([^"\s]+)', re.MULTILINE)  # ours, and a package's
    names = [name.removesuffix(".service") for text in roles_on(group).values() for name in named.findall(text)]
    workers = [worker["name"] for worker in load(ROOT / "inventories/shared/workers.yml")["celery_workers"]]
    instances = [f"{name}{worker}" for name in names if name.endswith("@") for worker in workers]
    return [name for name in names if name[0] != "*" and not name.endswith("@")] + instances


def absent(command: alerts.Command) -> list[str]:
    """The units, files and playbooks of a command that are not where it runs."""
    if command.groups == ("controller",):
        return [word for words in command.programs for word in words if word.endswith(".yml") and not (ROOT / word).is_file()]
    found = []
    for group in command.groups:
        for unit in (re.sub(r"\.(service|socket|timer)$", "", unit) for unit in command.units):
            if not any(fnmatch(unit, known) or fnmatch(known, unit) for known in units_on(group)):
                found.append(f"{group}: {unit}")
        found += [f"{group}: {path}" for path in command.files if not any(path in text for text in roles_on(group).values())]
    return found


def test_every_command_of_a_runbook_says_where_it_runs():
    """The sentence before a command names a place of scripts/alerts.py."""
    assert len(COMMANDS) > 50
    assert [command.line for command in COMMANDS if not command.groups] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line)
def test_units_files_and_playbooks_of_runbooks_exist_where_the_command_runs(command):
    """As far as the text of roles and playbooks tells. molecule/default/test_alerts.py looks for them on hosts."""
    assert absent(command) == []


@pytest.mark.parametrize(
    ("sentence", "line", "problems"),
    [
        ("On each web host:", "journalctl -u image-editor-web | grep 'a b'", []),
        ("On each web host:", "systemctl status image-editor-web.socket redis-server.service", ["web: redis-server"]),
        ("On each worker host:", "journalctl -u 'image-editor-worker@*' -u nginx", ["worker: nginx"]),
        ("On each worker host:", "systemctl start image-editor-worker@missing", ["worker: image-editor-worker@missing"]),
        ("On the worker host:", "systemctl start image-editor-worker@NAME", []),
        ("On any node or Sentinel:", "true && systemctl start haproxy", ["redis: haproxy", "redis_sentinel: haproxy"]),
        ("On the edge or media host:", "systemctl restart nginx", []),
        ("On the host:", "ls /var/lib/prometheus/node-exporter/ /var/lib/nowhere", ["all: /var/lib/nowhere"]),
        ("Then run:", "ansible-playbook -i inventories/lab playbooks/site.yml playbooks/nowhere.yml", ["playbooks/nowhere.yml"]),
    ],
)
def test_what_a_runbook_should_not_name_is_found(sentence, line, problems):
    (command,) = alerts.commands(f"### Specimen\n\n{sentence}\n\n    {line}\n")
    assert absent(command) == problems


@pytest.mark.parametrize("missing", ["rule.yml", "test.yml", "runbook.md"])
def test_an_incomplete_folder_is_refused_by_name(tmp_path, missing):
    folder = tmp_path / "QueueLong"
    folder.mkdir()
    for name, text in {"rule.yml": "groups: []", "test.yml": "tests: [{}]", "runbook.md": "# QueueLong"}.items():
        if name != missing:
            (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"QueueLong: .*{missing}"):
        read(folder)


def test_a_folder_of_a_later_directory_replaces_the_earlier_one(tmp_path):
    for directory in ("role", "inventory"):
        (tmp_path / directory / "HostDisk").mkdir(parents=True)
    (tmp_path / "role/HostDown").mkdir()
    assert folders([str(tmp_path / name) for name in ("role", "inventory", "missing")]) == [
        tmp_path / "inventory/HostDisk",
        tmp_path / "role/HostDown",
    ]


def test_groups_of_the_same_name_are_merged_and_alerts_get_their_runbook():
    text = "groups: [{{name: Hosts, rules: [{{alert: {}, expr: up == 0{}}}]}}]"
    files = [text.format("A", ""), text.format("B", ", annotations: {runbook_url: https://own}"), "groups: [{name: X, rules: }]"]
    (group,) = filters.prometheus_rules(files, "https://page")["groups"]
    assert [rule["annotations"]["runbook_url"] for rule in group["rules"]] == ["https://page#a", "https://own"]
    assert "annotations" not in filters.prometheus_rules(files)["groups"][0]["rules"][0]


@pytest.mark.parametrize(
    ("job", "problem"),
    [
        ({"hosts": ["web1"], "port": 1}, None),
        ({"targets": [{"host": "web1", "port": 1}]}, None),
        ({"hosts": ["switch1"], "port": 1, "address": "192.0.2.1"}, None),
        ({"hosts": []}, "port is missing"),
        ({"port": 1}, "needs hosts and port, or targets"),
        ({"targets": [{"host": "web1"}]}, "a target needs host and port"),
        ({"hosts": ["web9"], "port": 1}, "host web9 has no address"),
        ({"hosts": ["web1"], "port": 1, "pat": "/x"}, "unknown pat"),
    ],
)
def test_an_incomplete_scrape_job_is_refused_by_name(job, problem):
    problems = filters.prometheus_job_problems({"extra": job}, {"web1": "192.0.2.7"})
    assert [text for text in problems if problem in text and "Scrape job extra" in text] == problems if problem else not problems
    assert bool(problems) == bool(problem)


def test_what_every_collector_reports_is_not_added_up():
    """Each scheduler's host has a collector, and all of them report the same numbers. So only a maximum is right."""
    collector = (ROOT / "app/image_editor/observability/collector.py").read_text()
    names = re.findall(r'^    "(image_editor_\w+)": \(', collector, re.MULTILINE)
    assert len(names) >= 7
    files = [path for role in ("prometheus", "grafana") for path in (ROOT / "roles" / role / "files").rglob("*")]
    queries = [path for path in files if path.is_file() and path.name not in ("test.yml", "runbook.md")]
    assert len(queries) > 40
    maximum = re.compile(rf"\bmax(?: by \(\w+\) )?\((?:{'|'.join(names)})\b")
    wrong = {path.name: re.findall("|".join(names), maximum.sub("", path.read_text())) for path in queries}
    assert not {name: found for name, found in wrong.items() if found}


def test_the_baselines_are_recorded():
    recorded = {rule["record"] for path in RECORDING_RULES for group in load(path)["groups"] for rule in group["rules"]}
    assert recorded >= {
        "image_editor:task_seconds:mean5m",
        "image_editor:success_ratio:5m",
        "image_editor:redis_memory_bytes",
        "image_editor:database_connections",
    }


def test_commands_within_sentences_are_few_and_known():
    """The tests of commands see indented lines. A command within a sentence was checked by hand."""
    spans = set(re.findall(r"(?<!`)`([a-z][\w.-]+ [^`]+)`", alerts.PAGE.read_text()))
    programs = ("ansible", "apt", "certbot", "chronyc", "curl", "export", "image-editor-", "journalctl", "make", "systemctl")
    assert {span for span in spans if span.startswith(programs)} == {
        "certbot renew", "chronyc tracking", "export PATH=$PWD/.venv/bin:$PATH", "make status ENV=<yours>",
    }  # fmt: skip
