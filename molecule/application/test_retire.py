"""The host leaves one group after the other. What it ran there stops, and its secrets go. Nothing brings them back."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import changed, playbook, secret, until

PLAYBOOK = Path(__file__).parent / "retire.yml"
SECRETS = (
    "secret_key",
    "callback_signing_key",
    "media_signing_key",
    "media_password",
    "redis_application_password",
    "postgresql_password",
)


@pytest.fixture
def retire(tmp_path):
    """Runs the role on a host that is in all groups but some. Returns what changed."""

    def run(*left: str, check: bool = False) -> list[str]:
        shutil.copytree(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory", tmp_path, dirs_exist_ok=True)
        file = tmp_path / "hosts/hosts.yml"
        hosts = yaml.safe_load(file.read_text())
        hosts["all"]["children"] = {name: hosts for name, hosts in hosts["all"]["children"].items() if name not in left}
        file.write_text(yaml.safe_dump(hosts))
        ran = playbook(str(PLAYBOOK), *(["--check"] if check else []), inventory=tmp_path)
        assert ran.returncode == 0, ran.stdout
        return changed(ran.stdout)

    return run


def units(host) -> set[str]:
    """The platform's units that are active or would be at the next boot."""
    names = "--plain --no-legend 'image-editor-*' nginx.service haproxy.service"
    told = host.check_output(f"systemctl list-units --state=active {names}") + "\n"
    told += host.run(f"systemctl list-unit-files --state=enabled {names}").stdout  # exit code 1: there is none
    return {line.split()[0] for line in told.splitlines() if line.strip()}


def test_a_host_that_is_in_its_groups_keeps_everything(host, retire):
    before = units(host)
    assert not retire()
    assert units(host) == before


def test_a_worker_that_leaves_ends_what_it_has_begun_and_the_api_goes_on(host, api, retire):
    edit = api.submit()
    assert any("worker-edit.env" in task for task in retire("worker", "scheduler", check=True))
    assert "image-editor-worker@edit.service" in units(host)
    assert until("the edit has ended", lambda: api.ended(edit))["status"] == "succeeded"
    assert retire("worker", "scheduler")
    assert not [name for name in units(host) if "worker" in name or "scheduler" in name or "collector" in name]
    assert host.run("pgrep -f '[c]elery .* worker'").rc == 1
    assert not host.check_output("find /etc/image-editor -name 'worker-*'")
    assert api.submit(), "the API of the host goes on"
    assert host.file("/etc/image-editor/image-editor.env").exists, "the API needs the secrets"
    assert not retire("worker", "scheduler")


def test_a_host_that_leaves_the_edge_and_the_media_store_keeps_its_images(host, retire):
    assert retire("worker", "scheduler", "edge", "media")
    assert not {"edge.conf", "media.conf"} & set(host.check_output("ls /etc/nginx/sites-enabled").split())
    assert "nginx.service" in units(host), "Flower and Prometheus would be behind it"
    assert host.run("ss -Hltn 'sport = :443' | grep -q .").rc == 1, "the edge still listens"
    assert host.check_output("find /var/lib/image-editor-media/files -type f | head -n 1")


def test_a_host_that_leaves_all_groups_runs_nothing_and_keeps_no_secret(host, retire):
    groups = ("worker", "scheduler", "edge", "media", "web", "flower", "monitoring", "builder")
    assert retire(*groups)
    assert not [name for name in units(host) if "certificates" not in name and "firewall" not in name]
    for name in SECRETS:
        assert host.run("grep -rqF -- %s /etc /opt /var/lib/image-editor*", secret(name)).rc == 1, f"{name} is still there"
    assert not retire(*groups)
