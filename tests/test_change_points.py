"""Each test changes one place in a copy of an inventory and checks what is derived from the change."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from conftest import INVENTORIES, ROOT, SHARED, derived, each, load, variables_of
from test_playbooks import ansible
from test_settings import GIVEN

PRODUCTION = ROOT / "inventories/production"
SINGLE_HOST = ROOT / "inventories/single_host"
DOMAIN = "images.example.com"


@pytest.fixture
def environment(tmp_path) -> Path:
    """A new environment, made as README.md says: a copy of production beside the shared wiring."""
    for name in ("shared", "hosts_down.yml"):
        (tmp_path / name).symlink_to(ROOT / "inventories" / name)
    shutil.copytree(PRODUCTION, tmp_path / "ours", symlinks=True)
    return tmp_path / "ours"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def in_role(role: str, environment: Path, pattern: str, text: str) -> object:
    """A template as the role itself computes it on the pattern's first host, with its defaults and internal variables."""
    loader = DataLoader()
    directory = ROOT / "roles" / role
    loader.set_basedir(str(directory))
    variables = loader.load_from_file(str(directory / "defaults/main.yml"), trusted_as_template=True) | variables_of(
        environment, pattern, **GIVEN
    )
    internal = directory / "vars/main.yml"
    variables |= loader.load_from_file(str(internal), trusted_as_template=True) if internal.exists() else {}
    variables |= {
        "role_path": str(directory),
        "inventory_dir": str(environment),
        "ansible_managed": "Ansible managed",
    }
    return Templar(loader, variables=variables).template(trust_as_template(text))


@each("directory", INVENTORIES)
def test_every_inventory_links_the_shared_wiring(directory):
    link = directory / "group_vars/all/000_shared"
    assert link.is_symlink()
    assert link.readlink() == Path("../../../shared"), "the link must be relative, to work in a copy of the inventory"
    assert link == min(link.parent.iterdir()), "the link must be the first file, because the last value wins"
    assert (directory / "hosts_down.yml").readlink() == Path("../hosts_down.yml")


def test_each_shared_variable_is_defined_in_one_file():
    names = [name for path in SHARED for name in load(path)]
    assert len(names) > 100
    assert len(names) == len(set(names))


def test_the_large_example_is_an_environment_of_14_hosts(environment):
    """Ansible reads it only after it was copied over hosts.yml. It has the same groups, and preflight accepts their sizes."""
    medium = derived(environment, "web", "groups", **GIVEN)["groups"]
    shutil.copy(environment / "hosts.large.yml.example", environment / "hosts.yml")
    large, sizes = derived(environment, "web", "groups", "preflight_groups", **GIVEN).values()
    assert (len(medium["all"]), len(large["all"])) == (6, 14)
    assert medium.keys() == large.keys()
    assert [name for name, size in sizes.items() if not size["min"] <= len(large[name]) <= size.get("max", 14)] == []


def test_the_small_lab_is_a_part_of_the_lab():
    """`make down` removes the hosts of the lab, so it removes those of the small lab, too."""
    small, lab = (load(ROOT / f"inventories/{name}/hosts.yml")["all"] for name in ("lab_small", "lab"))
    assert small["hosts"].items() <= lab["hosts"].items()
    assert len(small["hosts"]) <= 9 < len(lab["hosts"]) <= 13
    assert all(group["hosts"].keys() <= lab["children"][name]["hosts"].keys() for name, group in small["children"].items())


@pytest.mark.parametrize(("name", "hosts", "publishes"), [("lab", 2, "gateway"), ("lab_small", 1, "edge1")])
def test_the_port_of_the_lab_leads_to_its_edge_or_to_the_address_that_two_edges_share(name, hosts, publishes):
    given = GIVEN | {"lab_edge_port": 8443}  # the lab reads it from the environment
    found = derived(ROOT / "inventories" / name, "edge", "keepalived_nodes", "lab_published_ports", **given)
    assert len(found["keepalived_nodes"]) == hosts
    assert list(found["lab_published_ports"]) == [publishes]


def test_the_small_example_is_what_the_scenario_single_host_deploys(environment):
    """The scenario has the hosts of the example, and the variables of inventories/single_host.

    A copy of production has the same variables after the changes of docs/production.md, except for what differs everywhere.
    """
    assert (ROOT / "molecule/single_host/hosts/hosts.yml").samefile(PRODUCTION / "hosts.small.yml.example")
    shutil.copy(environment / "hosts.small.yml.example", environment / "hosts.yml")
    changes = (ROOT / "docs/production.md").read_text().partition("\nFor one host, copy ")[2].partition("\nFor 14 hosts")[0]
    lines = re.findall(r"^    (.+)$", changes, re.MULTILINE)
    assert len(lines) > 3
    for line in lines:
        if line.startswith("# "):
            path = environment / line.removeprefix("# inventories/<yours>/")
        else:
            (old,) = re.findall(rf"^{line.split(':')[0]}:.*$", path.read_text(), re.MULTILINE)
            replace(path, old, line)
    small, single = (variables_of(inventory, "all[0]") for inventory in (environment, SINGLE_HOST))
    assert small["group_names"] == single["group_names"]
    files = [place / f"group_vars/all/{name}.yml" for place in (environment, SINGLE_HOST) for name in ("features", "platform")]
    names = {"platform_address", "platform_name"}.union(*map(load, files))
    different = {name for name in names if small.get(name) != single.get(name)}
    assert different == {
        *("application_settings", "lab_name", "platform_public_host", "secrets_directory", "smoke_receiver"),
        "prometheus_memory_max_mib",  # the same on the documented 8 GiB; smaller if single_host has less
    }
    assertions = derived(environment, "web", "preflight_assertions", **GIVEN)["preflight_assertions"]
    assert [assertion["fail_msg"] for assertion in assertions if not assertion["that"]] == []


@pytest.mark.parametrize("name", ["production", "single_host"])
def test_a_copied_environment_has_secrets_of_its_own(tmp_path, monkeypatch, name):
    monkeypatch.delenv("LAB_NAME", raising=False)
    for part in ("shared", "lab", "hosts_down.yml"):
        (tmp_path / part).symlink_to(ROOT / "inventories" / part)
    shutil.copytree(ROOT / "inventories" / name, tmp_path / "ours", symlinks=True)
    printed = ansible("ansible", "-i", f"{tmp_path}/ours", "web[0]", "-m", "debug", "-a", "var=secrets_directory")
    assert printed.stdout.endswith("/secrets/ours\n"), printed


def test_an_nginx_limit_is_one_line_of_the_environment(environment):
    (environment / "group_vars/all/ours.yml").write_text("nginx_client_max_body_size: 500m\n")
    assert derived(PRODUCTION, "edge", "nginx_client_max_body_size", **GIVEN) == {"nginx_client_max_body_size": "21m"}
    assert derived(environment, "edge", "nginx_client_max_body_size", **GIVEN) == {"nginx_client_max_body_size": "500m"}


def test_a_host_overrides_the_shared_wiring(environment):
    (environment / "host_vars").mkdir()
    (environment / f"host_vars/db1.{DOMAIN}.yml").write_text("postgresql_listen_addresses: [192.0.2.9]\n")
    assert derived(environment, "postgresql", "postgresql_listen_addresses", **GIVEN) == {
        "postgresql_listen_addresses": ["192.0.2.9"]
    }


def test_moving_redis_changes_one_file(environment):
    inventory = environment / "hosts.yml"
    (group,) = re.findall(r"^    redis:.*\n      hosts:\n", inventory.read_text(), re.MULTILINE)
    replace(inventory, group + "        db1.", group + "        redis3.")
    nodes = derived(environment, "web", "redis_nodes", **GIVEN)["redis_nodes"]
    assert list(nodes) == [f"redis3.{DOMAIN}", f"media1.{DOMAIN}"]


@pytest.mark.parametrize(
    ("group", "host", "variable"),
    [
        ("web", "app2", "nginx_web_servers"),
        ("worker", "app2", "platform_worker_targets"),
        ("edge", "edge1", "platform_nginx_hosts"),
        ("edge", "edge1", "acme_peers"),
        ("media", "media1", "nginx_media_servers"),
        ("media", "media1", "platform_media_names"),
        ("postgresql", "db1", "postgresql_nodes"),
        ("redis", "media1", "redis_nodes"),
        ("redis_sentinel", "monitor1", "redis_sentinels"),
        ("monitoring", "monitor1", "prometheus_alertmanagers"),
    ],
)
def test_another_host_in_a_group_changes_one_file(environment, group, host, variable):
    """Groups that allow one host only (preflight_groups) are left out."""
    text = (environment / "hosts.yml").read_text()
    before, found, after = text.partition(f"    {group}:")
    after = after.replace(f"        {host}.{DOMAIN}:\n", f"        {host}.{DOMAIN}:\n        new1.{DOMAIN}:\n", 1)
    (environment / "hosts.yml").write_text(before + found + after)
    old = derived(PRODUCTION, "monitoring", variable, **GIVEN)[variable]
    new = derived(environment, "monitoring", variable, **GIVEN)[variable]
    assert len(new) > len(old)
    jobs = derived(environment, "monitoring", "prometheus_jobs", **GIVEN)["prometheus_jobs"]
    assert f"new1.{DOMAIN}" in jobs["node"]["hosts"]


@pytest.mark.parametrize("place", ["all", "worker"])
def test_adding_a_queue_changes_one_file_of_the_infrastructure(environment, place):
    """A file with celery_workers_extra, for all hosts or for a group. The other workers keep their ports."""
    directory = environment / "group_vars" / place
    directory.mkdir(exist_ok=True)
    worker = "{name: thumbnail, queues: [thumbnail], concurrency: 1, metrics_port: 9813}"
    (directory / "queues.yml").write_text(f"celery_workers_extra:\n  - {worker}\n")
    targets = derived(environment, "monitoring", "platform_worker_targets", **GIVEN)["platform_worker_targets"]
    assert {"host": f"app2.{DOMAIN}", "port": 9813, "labels": {"worker": "thumbnail"}} in targets
    old = derived(PRODUCTION, "monitoring", "platform_worker_targets", **GIVEN)["platform_worker_targets"]
    assert all(target in targets for target in old)
    listeners = derived(environment, "worker", "preflight_listeners", **GIVEN)["preflight_listeners"]
    assert {"port": 9813, "process": "celery"} in listeners


def test_the_workers_are_listed_once():
    """The list is in the shared wiring. Some scenarios have a list of their own, because they run fewer workers."""
    files = {path.resolve() for folder in ("inventories", "roles", "playbooks") for path in (ROOT / folder).rglob("*.yml")}
    listing = [path for path in files if re.search(r"^(?!\s*#).*queues: \[edit\b", path.read_text(), re.MULTILINE)]
    assert listing == [ROOT / "inventories/shared/workers.yml"]


def test_two_workers_with_one_port_are_refused():
    clash = [{"name": "thumbnail", "queues": ["thumbnail"], "concurrency": 1, "metrics_port": 9811}]
    given = GIVEN | {"celery_workers_extra": clash}
    assertions = derived(PRODUCTION, "worker", "preflight_assertions", **given)["preflight_assertions"]
    (message,) = [assertion["fail_msg"] for assertion in assertions if not assertion["that"]]
    assert "more than once" in message
    assert "9811" in message


def test_an_environment_variable_of_the_application_is_one_line():
    given = GIVEN | {"application_environment_extra": {"HTTPS_PROXY": "http://proxy.example.com:3128"}}
    found = derived(PRODUCTION, "web", "release_environment", **given)["release_environment"]
    assert found["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    given = GIVEN | {"application_environment_extra": {"IMAGE_EDITOR_RETENTION_DAYS": 1, "a-b": 1}}
    assertions = derived(PRODUCTION, "web", "preflight_assertions", **given)["preflight_assertions"]
    (message,) = [assertion["fail_msg"] for assertion in assertions if not assertion["that"]]
    assert "cannot set a-b, IMAGE_EDITOR_RETENTION_DAYS." in message


def test_a_host_that_is_down_is_left_out_except_in_the_redis_set_and_for_healing(environment):
    replace(
        environment / "hosts.yml",
        "-e platform_down=app2\n      hosts: {}",
        f"\n      hosts:\n        app2.{DOMAIN}:\n        media1.{DOMAIN}:",
    )
    names = ("nginx_web_servers", "prometheus_hosts", "prometheus_jobs", "redis_nodes", "preflight_down", "platform_media_names")
    found = derived(environment, "edge", *names, **GIVEN)
    assert len(found["nginx_web_servers"]) == 1
    assert f"app2.{DOMAIN}" not in found["prometheus_hosts"]
    assert found["prometheus_jobs"]["redis"]["hosts"] == [f"db1.{DOMAIN}"]
    assert list(found["redis_nodes"]) == [f"db1.{DOMAIN}", f"media1.{DOMAIN}"], "a host that is down stays in the Redis set"
    assert found["platform_media_names"] == [f"media1.{DOMAIN}"], "what the host misses is recorded"
    assert found["preflight_down"] == [f"app2.{DOMAIN}", f"media1.{DOMAIN}"]


def test_an_edge_that_is_down_is_still_heard_if_the_edges_share_an_address(environment):
    """An edge that returns unasked, and is not heard by the holder, would hold the address, too."""
    shutil.copy(environment / "hosts.large.yml.example", environment / "hosts.yml")
    replace(environment / "hosts.yml", "platform_down=web2,worker2\n      hosts: {}", f"\n      hosts:\n        edge2.{DOMAIN}:")
    address = "{{ {'edge1': '10.0.0.11', 'edge2': '10.0.0.12'}[inventory_hostname.split('.')[0]] | default('10.0.0.99') }}"

    def heard(**extra: object) -> list[str]:
        given = GIVEN | {"platform_address": address} | extra
        rules = derived(environment, "edge", "firewall_rules", **given)["firewall_rules"]["incoming"]
        return next(rule["ipv4"] for rule in rules if rule["protocol"] == "vrrp")

    assert heard() == []
    assert heard(platform_edge_address="10.0.0.10") == ["10.0.0.12"]
    nodes = derived(environment, "edge", "keepalived_nodes", **GIVEN, platform_edge_address="10.0.0.10")["keepalived_nodes"]
    assert list(nodes) == [f"edge1.{DOMAIN}", f"edge2.{DOMAIN}"]


@pytest.mark.parametrize("given", ["platform_down=web2,worker2", '{"platform_down": ["web2", "worker2"]}'])
def test_hosts_are_declared_down_for_one_run(given):
    run = ansible("ansible-inventory", "-i", "inventories/lab", "--list", "-e", given)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr, run.stderr
    assert set(json.loads(run.stdout)["down"]["hosts"]) == {"web2", "worker2"}


def test_a_scrape_job_is_one_line_of_the_environment(environment):
    job = "{backlog: {hosts: [db1.images.example.com], port: 9999}}"
    (environment / "group_vars/all/ours.yml").write_text(f"prometheus_scrape_jobs_extra: {job}\n")
    template = (ROOT / "roles/prometheus/templates/prometheus.yml.j2").read_text()
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load(in_role("prometheus", environment, "monitoring", template))["scrape_configs"]
    }
    assert jobs["backlog"]["static_configs"][0]["targets"] == ["192.0.2.1:9999"]
    assert "node" in jobs


def test_an_alert_is_one_folder_of_the_environment(environment):
    """The folder holds rule, unit test and runbook. The role has no list of alerts."""
    shutil.copytree(ROOT / "roles/prometheus/files/alerts/HostDown", environment / "alerts/OursDown")
    alerts = in_role("prometheus", environment, "monitoring", "{{ __prometheus_alerts | map(attribute='name') }}")
    assert {"OursDown", "HostDown"} <= set(alerts)


@pytest.mark.parametrize(("ours", "summary"), [("{}", "is down"), ("prometheus_language: zh", "已停止")])
def test_the_summaries_of_alerts_are_in_the_language_of_the_operators(environment, ours, summary):
    (environment / "group_vars/all/ours.yml").write_text(f"{ours}\n")
    groups = in_role("prometheus", environment, "monitoring", "{{ __prometheus_rules.alerts }}")["groups"]
    summaries = {rule["alert"]: rule["annotations"]["summary"] for group in groups for rule in group["rules"]}
    assert summaries["HostDown"].startswith("主机 {{ $labels" if "zh" in ours else "Host {{ $labels")
    assert summary in summaries["HostDown"]
    assert ("2 秒" in summaries["ApiSlow"]) == ("zh" in ours), "a threshold is not filled in"


@pytest.mark.parametrize(
    ("ours", "page"),
    [
        ("{}", f"https://{DOMAIN}/prometheus/consoles/runbooks.html"),
        ("prometheus_runbooks_url: https://git.example.com/docs/alerts.md", "https://git.example.com/docs/alerts.md"),
    ],
)
def test_every_alert_links_to_its_section_of_the_page_of_runbooks(environment, ours, page):
    (environment / "group_vars/all/ours.yml").write_text(f"{ours}\n")
    groups = in_role("prometheus", environment, "monitoring", "{{ __prometheus_rules.alerts }}")["groups"]
    links = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert links == {name: f"{page}#{name.lower()}" for name in links}
    assert len(links) > 30


ALERTMANAGER = (ROOT / "roles/alertmanager/templates/alertmanager.yml.j2").read_text()


def test_without_its_secret_there_is_no_heartbeat(environment):
    assert "Watchdog" not in in_role("alertmanager", environment, "monitoring", ALERTMANAGER)


def test_the_heartbeat_is_one_secret_of_the_environment(environment):
    (environment / "group_vars/all/ours.yml").write_text("vault_alertmanager_heartbeat_url: https://hc.example.com/x\n")
    text = in_role("alertmanager", environment, "monitoring", ALERTMANAGER)
    first, *others = yaml.safe_load(text)["route"]["routes"]
    assert (first["receiver"], first["matchers"]) == ("heartbeat", ['alertname="Watchdog"'])
    assert [route["matchers"] for route in others] == [['severity="critical"'], ['severity="warning"']]
    assert "hc.example.com" not in text, "the URL is a secret"


MONITORING = (
    "prometheus_alertmanagers", "prometheus_alertmanager_scheme", "alertmanager_peers", "operators_peer_subjects",
    "alertmanager_mesh_names", "exporters_clients", "web_scrapers",
)  # fmt: skip


def test_a_second_monitoring_host_makes_a_mesh_and_one_alone_needs_none(environment):
    alone = derived(environment, "monitoring", *MONITORING, "prometheus_jobs", **GIVEN)
    assert (alone["prometheus_alertmanagers"], alone["alertmanager_peers"]) == (["127.0.0.1:9093"], [])
    assert alone["operators_peer_subjects"] == [], "a host needs no leave to use its own services"
    assert alone["prometheus_jobs"]["prometheus"].items() >= {"address": "127.0.0.1", "port": 9090, "scheme": "http"}.items()
    (group,) = re.findall(r"^    monitoring:.*\n      hosts:\n", (environment / "hosts.yml").read_text(), re.MULTILINE)
    replace(environment / "hosts.yml", group, f"{group}        monitor2.{DOMAIN}:\n")
    pair = derived(environment, "monitoring", *MONITORING, "prometheus_jobs", **GIVEN)
    names = [f"monitor2.{DOMAIN}", f"monitor1.{DOMAIN}"]
    assert pair["prometheus_alertmanagers"] == ["192.0.2.1:8444"] * 2
    assert (pair["prometheus_alertmanager_scheme"], pair["alertmanager_peers"]) == ("https", ["192.0.2.1:9094"])
    assert pair["operators_peer_subjects"] == [f"CN={name}" for name in names]
    assert pair["alertmanager_mesh_names"] == pair["exporters_clients"] == pair["web_scrapers"] == names
    for name in ("prometheus", "alertmanager"):
        assert pair["prometheus_jobs"][name] == {"hosts": names, "port": 8444, "path": f"/{name}/metrics"}
    template = (ROOT / "roles/prometheus/templates/prometheus.yml.j2").read_text()
    (section,) = yaml.safe_load(in_role("prometheus", environment, "monitoring", template))["alerting"]["alertmanagers"]
    assert section["scheme"] == "https"
    assert section["tls_config"]["cert_file"] == "/etc/ssl/certs/image-editor.crt"


def test_a_location_of_the_edge_is_one_line_of_the_environment(environment):
    location = "{path: /help/, directory: /usr/local/share/help}"
    (environment / "group_vars/all/ours.yml").write_text(f"nginx_locations_extra:\n  - {location}\n")
    locations = in_role("nginx", environment, "edge", "{{ __nginx_locations }}")
    assert [location["path"] for location in locations][-1] == "/help/"
    assert "/operators/" in [location["path"] for location in locations]


def test_a_public_certificate_is_one_line_of_the_environment(environment):
    (environment / "group_vars/all/ours.yml").write_text("platform_acme_email: operations@example.com\n")
    names, port_80 = ("nginx_certificate_path", "preflight_listeners", "acme_peers"), {"port": 80, "process": "nginx"}
    before, after = (derived(inventory, "edge", *names, **GIVEN) for inventory in (PRODUCTION, environment))
    assert before["nginx_certificate_path"] == "/etc/ssl/certs/image-editor.crt"
    assert port_80 not in before["preflight_listeners"]
    assert after["nginx_certificate_path"] == "/etc/image-editor-acme/fullchain.pem"
    assert port_80 in after["preflight_listeners"]
    assert after["acme_peers"] == [], "the edge asks itself for the challenge"


def test_a_setting_of_postgresql_is_one_line_of_the_environment(environment):
    (environment / "group_vars/all/ours.yml").write_text("postgresql_settings_extra: {work_mem: 16MB}\n")
    template = (ROOT / "roles/postgresql/templates/image-editor.extra.conf.j2").read_text()
    assert "work_mem = '16MB'" in in_role("postgresql", environment, "postgresql", template)


@pytest.mark.parametrize(
    ("role", "variable", "folder"),
    [
        ("prometheus", "prometheus_alert_directories", "alerts"),
        ("prometheus", "prometheus_recording_rule_directories", "recording_rules"),
    ],
)
def test_files_are_dropped_into_a_folder_of_the_environment(environment, role, variable, folder):
    directories = in_role(role, environment, "monitoring", f"{{{{ {variable} }}}}")
    assert directories[-1] == str(environment / folder), "the environment's folder must be the last, because later files win"
    assert len(directories) > 1, "the role's own folder is missing"


def test_a_dashboard_is_dropped_into_a_folder_of_the_environment(environment):
    (environment / "dashboards").mkdir()
    for name in ("hosts.json", "mine.json"):
        (environment / "dashboards" / name).write_text(f"the text of {name}")
    found = in_role("grafana", environment, "monitoring", "{{ __grafana_dashboards }}")
    assert set(found) == {"hosts.json", "mine.json", "overview.json", "pipeline.json", "postgresql.json", "redis.json"}
    assert (found["hosts.json"], found["mine.json"]) == ("the text of hosts.json", "the text of mine.json")
    assert found["redis.json"].startswith("{")
