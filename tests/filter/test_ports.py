"""The filter of plugins/filter/ports.py."""

from __future__ import annotations

import doctest
import importlib.util

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("ports", ROOT / "plugins/filter/ports.py")
ports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ports)

NGINX = [{"port": 443, "process": "nginx"}]


def line(port: int, *programs: str) -> str:
    users = ",".join(f'("{name}",pid=7,fd=4)' for name in programs)
    return f"LISTEN 0 511 0.0.0.0:{port} 0.0.0.0:* " + (f"users:({users})" if programs else "")


def test_the_example_in_the_docstring_is_true():
    assert doctest.testmod(ports).failed == 0


@pytest.mark.parametrize("programs", [("nginx",), ("nginx", "nginx"), ("systemd",), ("nginx", "systemd")])
def test_the_wanted_program_and_systemd_may_listen(programs):
    assert ports.ports_taken([line(443, *programs)], NGINX) == []


def test_a_port_may_move_from_one_program_of_the_platform_to_another():
    moved = [{"port": 8433, "process": "nginx"}, {"port": 8434, "process": "rclone"}]
    assert ports.ports_taken([line(8433, "rclone")], moved) == []
    assert ports.ports_taken([line(8433, "rclone")], moved[:1]) == ["Port 8433 is needed for nginx but taken by rclone."]


def test_every_program_that_holds_a_port_is_named():
    lines = [line(443, "apache2"), line(443, "caddy"), line(80, "lighttpd")]
    assert ports.ports_taken(lines, NGINX) == ["Port 443 is needed for nginx but taken by apache2, caddy."]


def test_a_program_of_another_user_has_no_name():
    assert ports.ports_taken([line(443)], NGINX) == ["Port 443 is needed for nginx but taken by an unknown program."]


@pytest.mark.parametrize("port", [4431, 1443])
def test_a_port_with_a_similar_number_is_free(port):
    assert ports.ports_taken([line(port, "apache2")], NGINX) == []
