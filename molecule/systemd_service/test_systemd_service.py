"""Units of the role, and a packaged unit with a drop-in, as systemd runs them."""

import pytest

ASK = "python3 -c \"import socket; s=socket.create_connection(('127.0.0.1', 8000), 10); print(s.recv(99).decode())\""
OURS_AND_PACKAGED = pytest.mark.parametrize("unit", ["probe-worker@edit.service", "packaged.service"])


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
