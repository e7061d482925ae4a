"""Filters that put Prometheus rule files and promtool test files together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

# Prometheus has {{ }} of its own. (Jinja itself, because Ansible's template lookup copies all variables for each of the files.)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C library is ten times as fast, and may be missing
JINJA = Environment(variable_start_string="<<", variable_end_string=">>", trim_blocks=True, undefined=StrictUndefined)


def prometheus_rule_texts(alerts: Iterable[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[str]:
    """Return the text of each alert's rule file. A file named ``*.j2`` is a Jinja template with ``<< >>`` for ``{{ }}``."""
    texts = []
    for alert in alerts:
        path = Path(str(alert["rule"]))
        text = path.read_text()
        texts.append(JINJA.from_string(text).render(**variables) if path.suffix == ".j2" else text)
    return texts


def prometheus_rules(files: Iterable[str], runbooks_url: str = "", summaries: Mapping[str, str] | None = None) -> dict:
    """Return one rule file made of the text of several; groups of the same name become one group.

    With ``runbooks_url``, every alert without an annotation ``runbook_url`` gets one: the alert's section of that page.
    Its anchor is in lower case, as GitHub and GitLab make the anchors of headings. ``summaries`` are the summaries of alerts
    in another language, by those in the files.
    """
    groups: dict[str, dict] = {}
    for text in files:
        for group in (yaml.load(text, LOADER) or {}).get("groups") or []:
            for rule in group.pop("rules") or []:
                annotations = rule.get("annotations") or {}
                if summary := (summaries or {}).get(annotations.get("summary", "")):
                    annotations["summary"] = summary
                if runbooks_url and "alert" in rule:
                    runbook = f"{runbooks_url}#{rule['alert'].lower()}"
                    rule["annotations"] = {"runbook_url": runbook} | annotations
                groups.setdefault(group["name"], {**group, "rules": []})["rules"].append(rule)
    return {"groups": list(groups.values())}


def prometheus_tests(alerts: Iterable[dict], rule_files: list[str]) -> dict:
    """Return one promtool test file of the tests of all alert folders; each test is named after its folder."""
    tests = [
        {**test, "name": ": ".join(filter(None, [alert["name"], test.get("name", "")]))}
        for alert in alerts
        for test in alert["tests"]
    ]
    return {"rule_files": rule_files, "evaluation_interval": "1m", "tests": tests}


def prometheus_job_problems(jobs: dict[str, dict], hosts: dict[str, str]) -> list[str]:
    """Return a sentence for each problem of a scrape job; ``hosts`` are the addresses of the known hosts."""
    known = {"hosts", "port", "targets", "path", "params", "scheme", "address", "sign_in"}
    problems = []
    for name, job in jobs.items():
        if unknown := sorted(set(job) - known):
            problems.append(f"Scrape job {name}: unknown {', '.join(unknown)}. A job has {', '.join(sorted(known))}.")
        if "hosts" not in job and "targets" not in job:
            problems.append(f"Scrape job {name}: needs hosts and port, or targets.")
        if "hosts" in job and "port" not in job:
            problems.append(f"Scrape job {name}: port is missing.")
        for target in job.get("targets", []):
            if not {"host", "port"} <= set(target):
                problems.append(f"Scrape job {name}: a target needs host and port.")
        named = [] if "address" in job else job.get("hosts", [])
        named = [*named, *(target["host"] for target in job.get("targets", []) if "host" in target)]
        problems += [f"Scrape job {name}: host {host} has no address in prometheus_hosts." for host in named if host not in hosts]
    return problems


class FilterModule:
    """Ansible's interface to this module."""

    def filters(self) -> dict[str, Callable]:
        return {
            "prometheus_job_problems": prometheus_job_problems,
            "prometheus_rule_texts": prometheus_rule_texts,
            "prometheus_rules": prometheus_rules,
            "prometheus_tests": prometheus_tests,
        }
