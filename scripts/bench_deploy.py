"""Measure a deployment, and record the figures.

bench_deploy.py              run site.yml again on the lab, which must be up, and measure what the idle hosts cost
bench_deploy.py first-run    count what the first run executed, which has just ended and was profiled; exit 1 beyond the limit
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import docker
import figures

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PROFILE = BUILD / "profile.json"  # written by plugins/callback/profile.py
ENV = os.environ.get("ENV", "lab")
# Seconds. After a deployment the page cache still holds the files that Ansible read, so the hosts rest before they are measured.
REST, IDLE = 300, 60


def second_run(strategy: str) -> tuple[float, float]:
    """Run site.yml with ``strategy``. It must change nothing. Return wall and the controller's processor time in seconds."""
    log = BUILD / "bench.log"
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w") as stream:
        run = subprocess.run(
            ["ansible-playbook", "-i", f"inventories/{ENV}", "playbooks/site.yml"],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_STRATEGY": strategy, "ANSIBLE_CALLBACKS_ENABLED": "profile"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode != 0:
        print("".join(log.read_text().splitlines(keepends=True)[-30:]))
        sys.exit("bench-deploy: the run failed")
    if "changed=" in log.read_text().replace("changed=0", ""):
        sys.exit("bench-deploy: the run changed something: see build/bench.log")
    return time.monotonic() - began, ended.ru_utime + ended.ru_stime - used.ru_utime - used.ru_stime


def dearest(tasks: list[dict]) -> str:
    """Return a table of the roles and of the tasks that take longest, with what they execute on hosts."""
    roles: dict[str, Counter] = {}
    for task in tasks:
        roles.setdefault(task["role"] or "playbooks", Counter()).update(
            {column: task[column] for column in ("seconds", "executed", "skipped")}
        )
    rows = [{"name": name, **counter} for name, counter in roles.items()]
    rows = sorted(rows, key=lambda row: -row["seconds"])[:10]
    rows += [task | {"name": f"{task['path']}  {task['task']}"} for task in tasks[:10]]
    lines = [f"{row['seconds']:8.1f} {row['executed']:9} {row['skipped']:8}  {row['name']}" for row in rows]
    head = f"{'seconds':>8} {'executed':>9} {'skipped':>8}  the ten dearest roles, then the ten dearest tasks"
    return "\n".join([head, *lines])


def at_rest() -> tuple[float, float]:
    """Return how many processors the lab's idle hosts keep busy, and their memory in MiB without the page cache."""
    hosts = docker.from_env().containers.list(filters={"label": "image-editor-lab=image-editor-lab"})

    def stats() -> list[dict]:
        return [host.stats(stream=False, one_shot=True) for host in hosts]

    def busy(answers: list[dict]) -> float:
        return sum(answer["cpu_stats"]["cpu_usage"]["total_usage"] for answer in answers) / 1e9

    before, began = busy(stats()), time.monotonic()
    time.sleep(IDLE)
    after = stats()
    cores = (busy(after) - before) / (time.monotonic() - began)
    memory = [answer["memory_stats"] for answer in after]
    pages = [one["stats"].get("inactive_file", one["stats"].get("total_inactive_file", 0)) for one in memory]
    return cores, sum(one["usage"] - page for one, page in zip(memory, pages, strict=True)) / 2**20


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    BUILD.mkdir(exist_ok=True)
    if arguments == ["first-run"]:
        executions = sum(task["executed"] + task["skipped"] for task in json.loads(PROFILE.read_text())["tasks"])
        entry = figures.record("site_host_tasks", executions, "executions", "<=1500")
        print(json.dumps(entry))
        return 0 if entry["ok"] else 1
    ours, processor = second_run("accelerated")
    print(dearest(json.loads(PROFILE.read_text())["tasks"]))
    stock, _ = second_run("linear")
    print(f"bench-deploy: second run: {ours:.0f} s, of which {processor:.0f} s of processor time on the controller")
    print(f"bench-deploy: with Ansible's own strategy: {stock:.0f} s")
    print("bench-deploy: waiting 5 minutes before processors and memory are measured", flush=True)
    time.sleep(REST)
    cores, memory = at_rest()
    entries = [
        figures.record("site_second_run_seconds", round(ours, 1), "s"),
        figures.record("site_second_run_cpu_seconds", round(processor, 1), "s", "<=130"),
        figures.record("site_second_run_stock_ratio", round(stock / ours, 2), "times", "<=3"),
    ]
    if ENV == "lab":
        entries += [
            figures.record("lab_idle_cores", round(cores, 3), "cores", "<=0.3"),
            figures.record("lab_memory_mib", round(memory), "MiB", "<=4096"),
        ]
    for entry in entries:
        limit = f", limit {entry['limit']}" if entry["limit"] else ""
        print(f"bench-deploy: {entry['figure']} {entry['value']:g} {entry['unit']}{limit}")
    return 1 if any(entry["ok"] is False for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
