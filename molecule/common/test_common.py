def test_base_packages_are_installed(host):
    assert host.package("ca-certificates").is_installed
    assert host.run("zstd --version").rc == 0
