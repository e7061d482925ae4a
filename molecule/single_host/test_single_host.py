"""All roles share one host without conflicts, also after the rollbacks and rollouts of the tests before."""

import json
import subprocess
import time
from datetime import UTC, datetime

from helpers import CURL, PHOTO, ROOT, changed, container, one_line, playbook, secret, until

TOKEN = "s" * 43


def test_smoke_through_the_public_url(on):
    """The smoke test runs on the host, because Docker does not publish its port."""
    host = on("platform1")  # not through Ansible, which would write the command and its secrets into the journal
    host.check_output("apt-get -qq update && apt-get -qq -y --no-install-recommends install python3-requests python3-pil")
    host.check_output("mkdir -p /root/smoke && echo %s | image-editor-manage ensure_user smoke", TOKEN)
    for file in (ROOT / "scripts/smoke.py", PHOTO):
        subprocess.run(["docker", "cp", "-q", str(file), f"{container('platform1')}:/root/smoke/"], check=True)
    result = host.run(
        "SMOKE_TOKEN=%s SMOKE_CALLBACK_KEY=%s python3 /root/smoke/smoke.py --url https://localhost --receiver 127.0.0.1:8099"
        " --ca /etc/ssl/certs/image-editor-ca.crt --photo /root/smoke/grace_hopper.jpg",
        TOKEN,
        secret("callback_signing_key"),
    )
    assert result.rc == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("smoke: ok edit=")
    assert "callback received" in result.stdout


def test_only_the_edge_listens_to_the_outside(host):
    """All other services listen on loopback."""
    listening = host.check_output("ss --no-header --listening --tcp --numeric").splitlines()
    outside = {line.split()[3] for line in listening if not line.split()[3].startswith(("127.", "[::1]"))}
    assert {address.rsplit(":", 1)[1] for address in outside} == {"443"}, outside


def test_check_mode_on_the_live_host_finds_nothing_to_change():
    result = playbook("playbooks/site.yml", "--check", "--diff")
    assert result.returncode == 0, result.stdout[-3000:]
    assert not changed(result.stdout)


def test_the_platform_comes_back_after_a_reboot(host):
    subprocess.run(["docker", "restart", "-t", "60", container("platform1")], check=True, capture_output=True)
    edge = "curl -sf -o /dev/null --cacert /etc/ssl/certs/image-editor-ca.crt https://localhost/healthz"
    api = f"{CURL} -sf -o /dev/null https://localhost:8000/readyz"
    until("the platform is ready after the reboot", lambda: host.run(f"{edge} && {api}").rc == 0, 60)
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"


def test_a_dropped_table_comes_back(bench):
    """The database returns to a moment before the drop, with the edit of that time. Without a confirmation nothing happens.

    Redis is on the same host, and must not hide that a restore has failed.
    """
    edit = bench.finish(bench.api.submit())["id"]
    moment = datetime.now(UTC).isoformat()
    time.sleep(2)
    drop = "cd / && runuser -u postgres -- psql -Xqd image_editor -v ON_ERROR_STOP=1 -c 'DROP TABLE edit CASCADE'"
    bench.host.check_output(drop)
    arguments = ("playbooks/restore.yml", "-e", "restore_parts=postgresql", "-e", f"restore_to={moment}")
    refused = playbook(*arguments)
    assert refused.returncode != 0
    assert "restore_confirm=hosts" in one_line(refused.stdout), refused.stdout[-3000:]
    assert not changed(refused.stdout)
    confirmed = ("-e", "restore_confirm=hosts")  # the folder of the inventory
    failed = playbook("playbooks/restore.yml", *confirmed, "-e", "restore_parts=postgresql", "-e", "restore_to=20200101-000000F")
    assert failed.returncode != 0
    assert "20200101-000000F" in one_line(failed.stdout)
    assert "The application runs again" in one_line(failed.stdout)
    # A restore that is killed leaves the application stopped.
    bench.host.check_output("systemctl stop image-editor-web.socket image-editor-web 'image-editor-worker@*'")
    restored = playbook(*arguments, *confirmed)
    assert restored.returncode == 0, restored.stdout[-5000:]
    report = json.loads((ROOT / "build/restore.json").read_text())
    assert len(report["restored"]) == 1
    assert report["reconciled"]["lost"] == [], report["reconciled"]
    assert bench.finish(edit)["id"] == edit
    bench.finish(bench.api.submit())
