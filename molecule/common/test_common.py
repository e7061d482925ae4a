import yaml
from helpers import ROOT

DEFAULTS = yaml.safe_load((ROOT / "roles/common/defaults/main.yml").read_text())


def test_base_packages_are_installed(host):
    missing = [name for name in DEFAULTS["common_packages"] if not host.package(name).is_installed]
    assert missing == []
    assert host.run("zstd --version").rc == 0
