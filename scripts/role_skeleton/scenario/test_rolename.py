def test_the_configuration_has_the_settings(host):
    configuration = host.file("/etc/rolename.conf")
    assert (configuration.user, configuration.group, configuration.mode) == ("root", "root", 0o644)
    assert "greeting = hello" in configuration.content_string.splitlines()


def test_the_packages_are_installed(host):
    assert host.package("zstd").is_installed
