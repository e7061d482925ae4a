import pytest
from helpers import changed, playbook, until

CONVERGE = "molecule/packages/converge.yml"
PROBE = "import socket; socket.create_connection(('127.0.0.1', 8000))"
UNLISTED = "hello"  # in Debian's repository, but not in the lab's own


def test_packages_are_installed_and_the_service_is_stopped(host):
    assert host.run("zstd --version").rc == 0
    assert host.package("nginx").is_installed
    assert not host.service("nginx").is_running


def test_a_removed_package_is_installed_again_and_check_mode_only_reports_it(host):
    """dpkg still knows a package that was removed but not purged. The package counts as missing."""
    assert host.run("apt-get remove -y nginx").rc == 0
    said = playbook(CONVERGE, "--check")
    assert said.returncode == 0, said.stdout
    found, installed = changed(said.stdout)
    assert "Ask dpkg whether packages are missing" in found
    assert "Install the packages nginx, zstd" in installed
    assert not host.package("nginx").is_installed
    assert playbook(CONVERGE).returncode == 0
    assert host.package("nginx").is_installed
    assert not changed(playbook(CONVERGE).stdout)


@pytest.fixture
def without_debian_lists(host):
    """A host without apt's lists of Debian's packages, like a fresh server or container."""
    host.check_output("rm -f /var/lib/apt/lists/*debian*")
    assert host.run("apt-cache show %s", UNLISTED).rc != 0


@pytest.mark.usefixtures("without_debian_lists")
def test_check_mode_finds_a_package_that_apt_does_not_know_yet(host):
    said = playbook(CONVERGE, "--check", "-e", f"{{packages_names: [{UNLISTED}]}}")
    assert said.returncode == 0, said.stdout
    steps = changed(said.stdout)  # of the first use of the role, then of the second
    assert [step.count("Ask dpkg whether packages are missing") for step in steps] == [1, 0, 1, 0]
    assert f"Install from the refreshed lists {UNLISTED}" in steps[1]
    assert f"Install the packages {UNLISTED}" in steps[3]
    assert not host.package(UNLISTED).is_installed


@pytest.mark.usefixtures("without_debian_lists")
def test_a_package_that_apt_does_not_know_yet_is_installed_from_debian(host):
    said = playbook(CONVERGE, "-e", f"{{packages_names: [{UNLISTED}]}}")
    assert said.returncode == 0, said.stdout
    assert host.package(UNLISTED).is_installed
    assert "rescued=1" in said.stdout


@pytest.fixture
def mirror(host):
    """A mirror on the host with version 1 of a package. Return a function that replaces it by another version."""

    def publish(version: int) -> None:
        control = (
            f"Package: probe\\nVersion: {version}\\nArchitecture: all\\nMaintainer: lab <lab@localhost>\\nDescription: probe\\n"
        )
        host.check_output(
            "set -e; mkdir -p /srv/mirror/probe/DEBIAN; cd /srv/mirror; rm -f *.deb;"
            f" printf '{control}' >probe/DEBIAN/control; dpkg-deb --build probe . >/dev/null; apt-ftparchive packages . >Packages"
        )

    publish(1)
    host.check_output("systemd-run --unit mirror python3 -m http.server --bind 127.0.0.1 --directory /srv/mirror 8000")
    until("the mirror listens", lambda: host.run("python3 -c %s", PROBE).rc == 0)
    host.check_output("echo 'deb [trusted=yes] http://127.0.0.1:8000 ./' >/etc/apt/sources.list.d/mirror.list")
    host.check_output("apt-get update")
    yield publish
    host.check_output("systemctl stop mirror; rm /etc/apt/sources.list.d/mirror.list")


def test_a_version_that_the_mirror_no_longer_has_is_replaced_by_the_current_one(host, mirror):
    mirror(2)
    assert "Version: 1" in host.check_output("apt-cache show probe")
    said = playbook(CONVERGE, "-e", "{packages_names: [probe]}")
    assert said.returncode == 0, said.stdout
    assert host.package("probe").version == "2"


def test_a_package_that_exists_nowhere_is_named():
    refused = playbook(CONVERGE, "-e", "{packages_names: [no-such-package]}")
    assert refused.returncode != 0
    assert "no-such-package" in refused.stdout.split("Install from the refreshed lists")[-1]
