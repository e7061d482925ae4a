"""Units of the role, and a packaged unit with a drop-in, as systemd runs them."""

import re

import pytest
from helpers import playbook

ASK = "python3 -c \"import socket; s=socket.create_connection(('127.0.0.1', 8000), 10); print(s.recv(99).decode())\""
OURS_AND_PACKAGED = pytest.mark.parametrize("unit", ["probe-worker@edit.service", "packaged.service"])


def converge(*arguments: str):
    """Run the scenario's playbook again; return the finished process."""
    return playbook("molecule/systemd_service/converge.yml", *arguments)


def can_write(host, unit: str, path: str) -> bool:
    """Whether root could create ``path`` as the unit sees the file system."""
    pid = host.check_output(f"systemctl show -P MainPID {unit}")
    return host.run(f"nsenter -t {pid} -m touch {path}").rc == 0


def test_socket_is_held_while_the_service_restarts(host):
    before = host.check_output(ASK)
    host.check_output("systemctl stop probe-web.service")
    assert host.socket("tcp://127.0.0.1:8000").is_listening
    after = host.check_output(ASK)
    assert before != after


@OURS_AND_PACKAGED
def test_a_killed_service_restarts(host, unit):
    pid = host.check_output(f"systemctl show -P MainPID {unit}")
    host.check_output(f"kill -9 {pid}")
    # Right after the kill, systemd may still report the old process.
    new = f"systemctl is-active -q {unit} && [ $(systemctl show -P MainPID {unit}) != {pid} ]"
    host.check_output(f"timeout 20 sh -c 'until {new}; do sleep 0.2; done'")


def test_drop_in_replaces_the_packages_command(host):
    assert "sleep 1d" in host.check_output("systemctl show -P ExecStart packaged.service")


def test_both_instances_run_within_their_memory(host):
    for queue in ("edit", "batch"):
        unit = f"probe-worker@{queue}.service"
        assert host.service(unit).is_running
        assert host.check_output(f"systemctl show -P MemoryMax {unit}") == str(64 * 2**20)


@pytest.mark.parametrize(("unit", "day"), [("probe-daily", "*-*-*"), ("probe-weekly", "Mon")])
def test_each_timer_of_a_list_is_active_at_its_own_times(host, unit, day):
    assert host.check_output(f"systemctl is-active {unit}.timer") == "active"
    assert f"OnCalendar={day}" in host.check_output(f"systemctl show -P TimersCalendar {unit}.timer")
    assert host.check_output(f"systemctl show -P Description {unit}.service") == f"Work of {unit}"


@OURS_AND_PACKAGED
def test_service_cannot_write_the_system_nor_gain_privileges(host, unit):
    pid = host.check_output(f"systemctl show -P MainPID {unit}")
    status = host.file(f"/proc/{pid}/status").content_string
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    assert not can_write(host, unit, "/etc/touched")


def test_hardening_exceptions_apply_to_their_unit_only(host):
    """ProtectSystem=full replaces strict; AF_NETLINK is added to the platform's address families."""
    assert can_write(host, "packaged.service", "/srv/touched")
    assert not can_write(host, "probe-worker@edit.service", "/srv/touched")
    families = host.check_output("systemctl show -P RestrictAddressFamilies packaged.service").split()
    assert sorted(families) == ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"]


def test_a_stopped_or_disabled_unit_is_brought_back(host):
    """Both by the next run, which restarts nothing that runs."""
    host.check_output("systemctl stop probe-web.socket probe-worker@batch.service")
    host.check_output("systemctl disable --quiet --now probe-daily.timer")
    running = host.check_output("systemctl show -P MainPID probe-worker@edit.service")
    assert converge().returncode == 0
    for unit in ("probe-web.socket", "probe-worker@batch.service", "probe-daily.timer"):
        assert host.check_output(f"systemctl is-enabled {unit}; systemctl is-active {unit}") == "enabled\nactive"
    assert host.check_output("systemctl show -P MainPID probe-worker@edit.service") == running


def test_an_instance_that_left_the_list_is_stopped(host):
    host.check_output("systemctl enable --quiet --now probe-worker@former.service")
    assert converge().returncode == 0
    assert host.run("systemctl is-enabled --quiet probe-worker@former.service").rc != 0
    assert host.run("systemctl is-active --quiet probe-worker@former.service").rc != 0


def test_a_changed_unit_restarts_alone_and_its_socket_stays(host):
    pid = {
        unit: host.check_output(f"systemctl show -P MainPID {unit}")
        for unit in ("probe-web.service", "probe-worker@edit.service")
    }
    socket = host.check_output("systemctl show -P InvocationID probe-web.socket")
    host.check_output("sed -i 's/Description=.*/Description=Other/' /etc/systemd/system/probe-web.service")
    assert converge().returncode == 0
    assert host.check_output("systemctl show -P Description probe-web.service") != "Other"
    assert host.check_output("systemctl show -P MainPID probe-web.service") != pid["probe-web.service"]
    assert host.check_output("systemctl show -P MainPID probe-worker@edit.service") == pid["probe-worker@edit.service"]
    assert host.check_output("systemctl show -P InvocationID probe-web.socket") == socket


def test_check_mode_reports_and_changes_nothing(host):
    host.check_output("systemctl stop probe-daily.timer")
    checked = converge("--check")
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"changed=1\b", checked.stdout), checked.stdout
    assert host.run("systemctl is-active --quiet probe-daily.timer").rc != 0
    assert converge().returncode == 0


def test_a_unit_that_systemd_refuses_is_not_written(host):
    """The unit in place keeps running, and the next run with a correct unit finds it unchanged."""
    before = host.file("/etc/systemd/system/probe-worker@.service").content
    refused = converge("-e", '{"probe_settings": {"MemoryMax": "much"}}')
    assert refused.returncode != 0
    assert "systemd refuses the unit, and nothing was written" in refused.stdout
    assert host.file("/etc/systemd/system/probe-worker@.service").content == before
    assert host.service("probe-worker@edit.service").is_running
