"""The parts of the role as a host shows them. `plain1` has an SSH server, `chrony1` a time daemon of its own."""

from __future__ import annotations

import json
import re
import shlex
import sys

import pytest
from helpers import ROOT, changed, in_soak, one_line, playbook, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

CONVERGE = "molecule/hardening/converge.yml"
SWITCHES = ("upgrades", "clock", "journal", "sshd", "sysctl", "core_dumps_off")
UPGRADES = "/etc/apt/apt.conf.d/52image-editor-upgrades"


@pytest.fixture(scope="module")
def plain(on):
    return on("plain1")


def sign_in(host, user: str, command: str = "id -un", password: bool = False):
    """Return the finished attempt to run a command as ``user`` over SSH, with root's key or with the password alone."""
    method = "PubkeyAuthentication=no" if password else "PreferredAuthentications=publickey"
    options = f"-o {method} -o NumberOfPasswordPrompts=1 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    askpass = "SSH_ASKPASS=/usr/local/bin/askpass SSH_ASKPASS_REQUIRE=force"
    return host.run(f"{askpass} ssh {options} {user}@127.0.0.1 {shlex.quote(command)}")


@pytest.mark.parametrize("user", ["deploy", "root"])
def test_a_key_signs_in_and_a_password_does_not(plain, user):
    assert sign_in(plain, user).stdout.strip() == user
    refused = sign_in(plain, user, password=True)
    assert refused.rc != 0
    assert "Permission denied (publickey)" in refused.stderr


# A child of this process crashes. The process prints whether the kernel has written a core dump.
CRASH = "python3 -c 'import os; child = os.fork() or os.abort(); print(os.WCOREDUMP(os.waitpid(child, 0)[1]))'"


def crash_of_a_service(host, *properties: str) -> str:
    given = " ".join(f"--property={value}" for value in ("WorkingDirectory=/tmp", *properties))
    return host.check_output(f"systemd-run --quiet --wait --pipe {given} {CRASH}")


def test_a_crash_of_a_service_or_in_a_session_leaves_no_core_dump(plain):
    piped = plain.file("/proc/sys/kernel/core_pattern").content_string.startswith("|")
    if piped or crash_of_a_service(plain, "LimitCORE=infinity") == "False":
        pytest.skip("the kernel of this machine writes no core dumps, or gives them to a program, whatever the limits are")
    assert crash_of_a_service(plain) == "False"
    assert sign_in(plain, "deploy", CRASH).stdout.strip() == "False"


def test_the_journal_does_not_outgrow_its_limit(plain):
    """40 MB of lines that cannot be compressed much; the limit is 16 MiB."""
    plain.check_output("{ head -c 30M /dev/urandom | base64 -w 30000; echo the end; } | systemd-cat -t flood")
    until("the last line is in the journal", lambda: plain.check_output("journalctl -t flood -n 1 -o cat") == "the end", 60)
    assert int(plain.check_output("du -sk /var/log/journal").split()[0]) <= 20 * 1024


def test_the_network_is_restricted_and_the_machine_that_runs_the_container_is_left_alone(plain):
    assert plain.sysctl("net.ipv4.tcp_syncookies") == 1
    assert plain.sysctl("net.ipv4.conf.eth0.rp_filter") == 2
    assert plain.sysctl("net.ipv4.conf.eth0.accept_redirects") == 0
    assert plain.sysctl("net.ipv6.conf.default.accept_redirects") == 0
    settings = plain.file("/etc/sysctl.d/60-image-editor.conf").content_string
    assert set(re.findall(r"^(\w+)\..* =", settings, re.MULTILINE)) == {"net"}


# Three packages are installed in version 1. Debian's security updates offer version 2 of two of them, and its other updates
# offer version 2 of the third.
OFFER = """
set -e
rm -rf /srv/offer /etc/apt/sources.list.d/offer.list
mkdir /srv/offer && cd /srv/offer
package() { # FOLDER NAME VERSION
    mkdir -p build/DEBIAN "$1"
    printf 'Package: %s\\nVersion: %s\\nArchitecture: all\\nMaintainer: lab <lab@localhost>\\nDescription: probe\\n' "$2" "$3" \
        >build/DEBIAN/control
    dpkg-deb --build build "$1" >/dev/null
}
offer() { # FOLDER LABEL CODENAME
    cd "/srv/offer/$1"
    apt-ftparchive packages . >Packages
    release=APT::FTPArchive::Release
    apt-ftparchive -o $release::Origin=Debian -o $release::Label="$2" -o $release::Codename="$3" release . >/srv/offer/Release
    mv /srv/offer/Release .
    echo "deb [trusted=yes] file:/srv/offer/$1 ./" >>/etc/apt/sources.list.d/offer.list
}
for name in probe-security nginx probe-other; do package installed $name 99:1; done
dpkg --install installed/*.deb >/dev/null
for name in probe-security nginx; do package security $name 99:2; done
package other probe-other 99:2
offer security Debian-Security trixie-security
offer other Debian trixie
apt-get update -qq -o Dir::Etc::sourcelist=/etc/apt/sources.list.d/offer.list -o Dir::Etc::sourceparts=/dev/null \
    -o APT::Get::List-Cleanup=false
"""


def upgrades(host) -> set[str]:
    """The packages that the next night would update."""
    said = host.run("unattended-upgrade --dry-run --verbose")
    found = re.search(r"^Packages that will be upgraded: (.*)$", said.stdout, re.MULTILINE)
    assert found, said.stdout + said.stderr
    return set(found[1].split())


def test_the_nightly_updates_are_security_updates_that_are_not_on_the_blacklist(plain):
    """nginx is on the blacklist. Debian's own settings would update all three packages."""
    plain.check_output(OFFER)
    names = {"probe-security", "nginx", "probe-other"}
    assert upgrades(plain) & names == {"probe-security"}
    plain.check_output(f"mv {UPGRADES} /root")
    try:
        assert upgrades(plain) & names == names
    finally:
        plain.check_output(f"mv /root/{UPGRADES.rpartition('/')[2]} {UPGRADES}")


def test_the_time_servers_are_those_of_the_inventory(plain):
    settings = plain.check_output("systemd-analyze cat-config systemd/timesyncd.conf")
    assert re.findall(r"^NTP=(.*)$", settings, re.MULTILINE)[-1] == "ntp1.example.com ntp2.example.com"
    assert plain.check_output("systemctl is-enabled systemd-timesyncd.service") == "enabled"


def test_another_time_daemon_is_kept(on):
    assert on("chrony1").package("chrony").is_installed
    assert not on("chrony1").package("systemd-timesyncd").is_installed


def test_no_unit_has_failed(host):
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


@in_soak
def test_the_index_of_the_auditor_rises(plain):
    """In a container only the settings of the network and of core dumps can rise."""
    plain.check_output("lynis audit system --quiet --no-log --report-file /root/after.dat")
    before, after = (
        int(re.search(r"^hardening_index=(\d+)", plain.file(f"/root/{name}.dat").content_string, re.MULTILINE)[1])
        for name in ("before", "after")
    )
    assert figures.record("hardening_index", after, "of 100", f">={before + 1}")["ok"]


@pytest.fixture(scope="module")
def switched_off(plain):
    """Switch every part off, and on again after the tests of this module."""
    off = playbook(CONVERGE, "-e", json.dumps({f"hardening_{name}": False for name in SWITCHES}))
    assert off.returncode == 0, off.stdout[-3000:]
    yield
    on_again = playbook(CONVERGE)
    assert on_again.returncode == 0, on_again.stdout[-3000:]


@pytest.mark.usefixtures("switched_off")
def test_a_part_that_is_switched_off_leaves_the_hosts_own_settings(plain):
    assert plain.check_output("find /etc -name '*image-editor*'") == ""
    assert not plain.package("unattended-upgrades").is_installed
    assert sign_in(plain, "deploy", password=True).stdout.strip() == "deploy"


@pytest.mark.usefixtures("switched_off")
# With true, a package is missing on both hosts.
@pytest.mark.parametrize("wanted", ["true", pytest.param("false", marks=in_soak)])
def test_check_mode_on_a_host_without_the_settings_changes_nothing(plain, wanted):
    said = playbook(CONVERGE, "--check", "-e", f"hardening_upgrades={wanted}")
    assert said.returncode == 0, said.stdout
    assert changed(said.stdout)
    assert "On chrony1 the role leaves alone: its time daemon is chrony" in one_line(said.stdout)
    assert plain.check_output("find /etc -name '*image-editor*'") == ""
    assert not plain.package("unattended-upgrades").is_installed


@pytest.mark.usefixtures("switched_off")
def test_an_operator_without_a_key_is_not_locked_out(plain):
    plain.check_output("mv /root/.ssh/authorized_keys /root/keys")
    try:
        refused = playbook(CONVERGE, "--limit", "plain1")
        assert refused.returncode != 0
        assert "root has no key on plain1" in one_line(refused.stdout)
        assert not changed(refused.stdout)
        assert sign_in(plain, "root", password=True).stdout.strip() == "root"
    finally:
        plain.check_output("mv /root/keys /root/.ssh/authorized_keys")
