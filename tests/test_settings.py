"""The inventory can decide every setting of the application. Settings of other programs that must agree follow from it."""

from __future__ import annotations

import re

import pytest
from conftest import INVENTORIES, ROOT, derived, each, files, load, render

PRODUCTION = ROOT / "inventories/production"
WIRING = load(ROOT / "inventories/shared/application.yml")
SETTABLE = set(WIRING["platform_settings_known"])
NOT_FOR_A_PLATFORM = {"DEBUG"}  # with DEBUG, Django's error pages show settings to every client
OF_THE_PREVIOUS_RELEASE = {"MEDIA_URL"}  # it still runs while the next one is rolled out, and after a rollback
OF_ONE_PROCESS = {"METRICS_LISTEN", "METRICS_TLS", "METRICS_CLIENTS", "WEB_THREADS"}  # the roles set them for each unit
# Values in place of facts and the vault.
SECRETS = ("secret_key", "media_password", "media_signing_key", "callback_signing_key")
GIVEN = {
    "platform_address": "192.0.2.1",
    "secrets_directory": "/nonexistent",
    "vault_postgresql_password": "x",
    "vault_postgresql_owner_password": "x",
    "vault_redis_passwords": {"application": "x"},
    "vault_application_secrets": dict.fromkeys(SECRETS, "x"),
}
S3 = {
    "media_backend": "s3",
    "application_settings": {"S3_BUCKET": "pictures"},
    "vault_s3_access_key": "x",
    "vault_s3_secret_key": "x",
}


def read_by_the_application() -> set[str]:
    """Every name that follows IMAGE_EDITOR_ in the application's code."""
    code = [path for path in files() if path.suffix == ".py" and "app" in path.parts and "tests" not in path.parts]
    text = "\n".join(path.read_text() for path in code)
    return set(re.findall(r"\bIMAGE_EDITOR_([A-Z0-9_]+)\"", text)) | set(re.findall(r'\brequired\("(\w+)"\)', text))


def described() -> set[str]:
    """Every name in the first column of the table of docs/app/settings.md."""
    table = (ROOT / "docs/app/settings.md").read_text().partition("| variable (`IMAGE_EDITOR_…`)")[2].partition("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([A-Z0-9_]+)`", row.split("|")[1])}


def production(*names: str, **extra: object) -> dict[str, object]:
    """Variables of production's first web host."""
    return derived(PRODUCTION, "web", *names, **GIVEN | extra)


def environment(inventory: str, **extra: object) -> dict[str, str]:
    """The environment file that the application gets."""
    variables = derived(ROOT / "inventories" / inventory, "web", "release_environment", **GIVEN | extra)
    text = render((ROOT / "roles/release/templates/image-editor.env.j2").read_text(), settings=variables["release_environment"])
    return dict(re.findall(r'^IMAGE_EDITOR_(\w+)="(.*)"$', text, re.MULTILINE))


def refusals(**extra: object) -> list[str]:
    """The messages with which preflight would refuse."""
    assertions = production("preflight_assertions", **extra)["preflight_assertions"]
    return [assertion["fail_msg"] for assertion in assertions if not assertion["that"]]


def test_every_setting_is_described_and_is_either_derived_or_settable():
    assert len(described()) > 30
    assert read_by_the_application() == described()
    follows = environment("production", application_settings={"ENGINE": "openai"}, vault_openai_api_key="x")
    follows |= environment("production", **S3)
    assert set(follows) - OF_THE_PREVIOUS_RELEASE | SETTABLE | NOT_FOR_A_PLATFORM | OF_ONE_PROCESS == described()
    assert SETTABLE.isdisjoint(environment("production").keys() - {"UPLOAD_MAX_BYTES", "PIXELS_MAX", "TASK_TIME_LIMIT"})


@each("directory", INVENTORIES)
def test_every_inventory_passes_the_preflight_assertions(directory):
    given = GIVEN | {"lab_alert_port": "", "smoke_receiver": "192.0.2.1:8099"}  # the lab's depend on its machine
    assert [a for a in derived(directory, "web", "preflight_assertions", **given)["preflight_assertions"] if not a["that"]] == []


def test_settings_of_the_inventory_reach_the_environment_file():
    settings = {"FETCH_ALLOWED_HOSTS": ["a.example.com", "10.0.0.1:8080"], "OPENAI_IDEMPOTENT": True, "RETENTION_DAYS": 90}
    found = environment("production", application_settings=settings)
    assert found.items() >= {
        "FETCH_ALLOWED_HOSTS": "a.example.com,10.0.0.1:8080",
        "OPENAI_IDEMPOTENT": "true",
        "RETENTION_DAYS": "90",
    }.items()  # fmt: skip
    assert "OPENAI_API_KEY" not in found


def test_the_application_reaches_several_database_hosts_through_the_proxy_of_its_host():
    assert "@db1.images.example.com:5432/image_editor?sslmode=verify-full" in environment("production")["DATABASE_URL"]
    wanted = ("proxy_postgresql_nodes", "proxy_postgresql_port")
    assert production(*wanted)["proxy_postgresql_nodes"] == {}
    several = {"platform_postgresql_proxied": True}
    url = environment("production", **several)["DATABASE_URL"]
    assert "@postgresql.image-editor.internal:5432/image_editor?hostaddr=127.0.0.1&sslmode=verify-full" in url
    assert production(*wanted, **several)["proxy_postgresql_nodes"] == {"db1.images.example.com": "192.0.2.1"}
    on_a_node = derived(PRODUCTION, "postgresql", *wanted, **GIVEN | several)
    assert on_a_node == {"proxy_postgresql_nodes": {}, "proxy_postgresql_port": 5433}


def test_limits_of_nginx_media_and_celery_follow_from_the_application_settings():
    names = ("nginx_client_max_body_size", "media_client_max_body_size", "celery_time_limit")
    assert production(*names) == dict(zip(names, ("21m", "192m", 120), strict=True))
    settings = {"UPLOAD_MAX_BYTES": 50 * 2**20 + 1, "PIXELS_MAX": 1_000_000, "TASK_TIME_LIMIT": 300}
    assert production(*names, application_settings=settings) == dict(zip(names, ("52m", "52m", 300), strict=True))


def test_preflight_refuses_web_processes_with_one_thread():
    """A client that waits keeps a thread. Variables of the command line are texts."""
    for threads in (1, "1"):
        assert [message.partition(".")[0] for message in refusals(web_threads=threads)] == ["web_threads is 1"]
    assert refusals(web_threads="2") == []


def test_preflight_names_the_settings_that_cannot_be_set():
    settings = {"RETENTION_DAYS": 1, "RETENTION_DAY": 1, "DATABASE_URL": "postgresql://elsewhere", "DEBUG": True}
    (message,) = refusals(application_settings=settings)
    assert "cannot be set there: DATABASE_URL, DEBUG, RETENTION_DAY." in message


def test_preflight_refuses_a_visibility_timeout_within_the_task_time_limit():
    (message,) = refusals(application_settings={"TASK_TIME_LIMIT": 300, "VISIBILITY_TIMEOUT": 300})
    assert "VISIBILITY_TIMEOUT must exceed TASK_TIME_LIMIT (300 s)" in message


def test_postgresql_accepts_as_many_connections_as_the_hosts_need():
    """Production has two hosts with API and workers. Facts are not known here."""
    wanted = "postgresql_max_connections"
    assert production(wanted) == {wanted: 100}
    assert production(wanted, platform_database_connections=60) == {wanted: 200}


def test_preflight_refuses_fewer_connections_than_the_hosts_need():
    for own in ({"postgresql_max_connections": 150}, {"postgresql_settings_extra": {"max_connections": 150}}):
        (message,) = refusals(platform_database_connections=60, **own)
        assert message.startswith("PostgreSQL accepts 150 connections, and the web and worker hosts of this inventory need 200.")


def test_preflight_refuses_a_database_with_replicas_without_an_odd_number_of_etcd_members():
    nodes = [f"{name}.images.example.com" for name in ("db1", "media1", "monitor1", "app1")]
    two = {"platform_postgresql_hosts": nodes[:2]}
    assert refusals(**two) == [], "production has three etcd hosts"
    for number in (0, 1, 2, 4):
        (message,) = refusals(**two, platform_etcd_hosts=nodes[:number])
        assert message.startswith(f"The group postgresql has 2 hosts, and the group etcd has {number} (")
    assert refusals(platform_etcd_hosts=nodes[:2]) == [], "one database host needs no etcd"


def warnings(**extra: object) -> list[str]:
    """The messages that preflight would report at the end of the run."""
    return [warning["msg"] for warning in production("preflight_warnings", **extra)["preflight_warnings"] if not warning["that"]]


def test_preflight_reports_a_platform_that_tells_nobody_about_alerts():
    (message,) = warnings()
    assert message.startswith("Nobody is told about alerts")
    assert warnings(alertmanager_webhook_url="https://alerts.example.com/") == []
    assert warnings(alertmanager_email_to=[]) == [], "the operator wants none"
    assert warnings(monitoring_enabled=False) == []


def test_preflight_reports_a_ca_that_is_on_one_controller_alone(tmp_path):
    given = {"alertmanager_email_to": [], "platform_inventory": str(tmp_path), "pki_ca_directory": str(tmp_path)}
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/vault.yml").touch()
    assert warnings(**given) == [], "the first run has not created the CA"
    (tmp_path / "ca.crt").touch()
    (message,) = warnings(**given)
    assert message.startswith("The internal CA is on this controller alone.")
    assert warnings(**given, vault_pki_ca={"certificate": "PEM"}) == []


def test_preflight_refuses_the_secrets_of_another_environment():
    (message,) = refusals(secrets_directory="/srv/secrets/lab")
    assert "Two environments must not share one CA." in message


def test_preflight_refuses_a_public_certificate_that_cannot_be_ordered_or_served():
    email = {"platform_acme_email": "operations@example.com"}
    assert refusals(**email) == []
    for name in ("localhost", "192.0.2.1"):
        (message,) = refusals(**email, platform_public_host=name)
        assert message.endswith(f"platform_public_host is {name}.")
    (message,) = refusals(**email, nginx_certificate_path="/etc/ssl/certs/ours.crt")
    assert "names a file of your own" in message


def test_a_public_certificate_needs_a_name_that_leads_to_an_edge():
    """Or to a router in front of the edges. Facts are not known here."""
    wanted, router = "preflight_public_addresses", {"platform_public_addresses": ["203.0.113.7"]}
    assert production(wanted, **router) == {wanted: []}
    email = {"platform_acme_email": "operations@example.com"}
    assert production(wanted, **router, **email) == {wanted: ["203.0.113.7"]}
    assert production(wanted, platform_edge_address="192.0.2.10", **email) == {wanted: ["192.0.2.10"]}


@pytest.mark.parametrize(
    ("group", "names"),
    [("edge", []), ("worker", ["db1", "media1"]), ("postgresql", ["monitor1"]), ("backup", ["db1", "monitor1"])],
)
def test_each_host_must_find_the_hosts_that_it_reaches_by_name(group, names):
    found = derived(PRODUCTION, group, "preflight_names", **GIVEN)["preflight_names"]
    assert found == {f"{name}.images.example.com": "192.0.2.1" for name in names}


def test_preflight_refuses_a_release_serial_that_is_no_number_of_hosts():
    """It is refused before the scheduler stops."""
    (message,) = refusals(release_serial="all")
    assert message.startswith("release_serial is all; it can be")
    assert refusals(release_serial=[1, "50%"]) == refusals(release_serial="2") == []


def test_preflight_requires_the_api_key_of_the_engine():
    wanted = "preflight_required_variables"
    assert "vault_openai_api_key" not in production(wanted)[wanted]
    assert "vault_openai_api_key" in production(wanted, application_settings={"ENGINE": "openai"})[wanted]


def test_an_s3_store_replaces_the_media_hosts():
    wanted = ("nginx_media_servers", "preflight_groups", "preflight_required_variables")
    ours = production(*wanted)
    assert len(ours["nginx_media_servers"]) == 1
    assert ours["preflight_groups"]["media"] == {"min": 1}
    elsewhere = production(*wanted, **S3)
    assert elsewhere["nginx_media_servers"] == []
    assert elsewhere["preflight_groups"]["media"]["min"] == 0
    assert set(elsewhere["preflight_required_variables"]) - set(ours["preflight_required_variables"]) == {
        "vault_s3_access_key",
        "vault_s3_secret_key",
    }
    found = environment("production", **S3)
    assert found.items() >= {"MEDIA_BACKEND": "s3", "S3_BUCKET": "pictures", "S3_SECRET_KEY": "x"}.items()
    assert not {"MEDIA_URLS", "MEDIA_PASSWORD", "MEDIA_SIGNING_KEY"} & set(found)
    (message,) = refusals(**S3 | {"application_settings": {}})
    assert "needs S3_BUCKET" in message
    (message,) = refusals(media_backend="s4")
    assert message.startswith("media_backend is s4")
