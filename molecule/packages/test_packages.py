from helpers import playbook

CONVERGE = "molecule/packages/converge.yml"


def test_what_was_asked_for_is_there_and_waits(host):
    assert host.run("zstd --version").rc == 0
    assert host.package("nginx").is_installed
    assert not host.service("nginx").is_running


def test_a_removed_package_comes_back_and_check_mode_only_says_so(host):
    """Removed with its configuration left behind, dpkg still knows it: it is missing all the same."""
    assert host.run("apt-get remove -y nginx").rc == 0
    said = playbook(CONVERGE, "--check")
    assert said.returncode == 0, said.stdout
    assert "changed=1" in said.stdout
    assert not host.package("nginx").is_installed
    assert playbook(CONVERGE).returncode == 0
    assert host.package("nginx").is_installed
    assert "changed=0" in playbook(CONVERGE).stdout


def test_an_unknown_package_is_named():
    refused = playbook(CONVERGE, "-e", "{packages_names: [no-such-package]}")
    assert refused.returncode != 0
    assert "no-such-package" in refused.stdout
