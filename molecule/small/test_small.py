"""The platform on nine hosts works, and does without what needs a second host of a kind."""

from __future__ import annotations

from helpers import playbook


def test_an_edit_a_batch_and_a_callback_succeed(tmp_path):
    report = tmp_path / "report"
    result = playbook("playbooks/smoke.yml", "-e", f"smoke_report={report}")
    assert result.returncode == 0, result.stdout[-3000:]
    assert report.read_text().splitlines()[-1].startswith("smoke: ok edit=")


def test_no_unit_has_failed(host):
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def test_what_needs_a_second_host_of_a_kind_does_not_run(on):
    """One edge has no address to share, one database host no cluster. Redis has two nodes."""
    for host, unit in (("edge1", "keepalived"), ("db1", "patroni"), ("redis1", "etcd")):
        assert on(host).run("systemctl is-active %s", unit).stdout.strip() == "inactive", unit
    assert on("db1").run("systemctl is-active postgresql@17-main").stdout.strip() == "active"
    assert on("redis1").check_output("image-editor-redis status").endswith("ok")
