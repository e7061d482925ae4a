from pathlib import Path

import yaml
from helpers import ROOT, changed, playbook

DEFAULTS = yaml.safe_load((ROOT / "roles/common/defaults/main.yml").read_text())
CONVERGE = str(Path(__file__).parent / "converge.yml")


def test_base_packages_are_installed(host):
    missing = [name for name in DEFAULTS["common_packages"] if not host.package(name).is_installed]
    assert missing == []
    assert host.run("zstd --version").rc == 0


def test_check_mode_changes_nothing_on_a_bare_server(host):
    """It reports what is missing. Ansible's apt module would need python3-apt, which a bare server does not have."""
    bare = playbook("molecule/shared/bare.yml")
    assert bare.returncode == 0, bare.stdout[-3000:]
    packages = host.check_output("dpkg-query --show")
    assert "python3-apt\t" not in packages
    said = playbook(CONVERGE, "--check", "--diff")
    assert said.returncode == 0, said.stdout[-3000:]
    assert any("Ask dpkg whether packages are missing" in step for step in changed(said.stdout))
    assert host.check_output("dpkg-query --show") == packages
