import pytest
from helpers import secret

pytestmark = pytest.mark.usefixtures("on")

CA = "/etc/ssl/certs/image-editor-ca.crt"


def psql(host, sql, user="image_editor", database="image_editor", options=f"sslmode=verify-full sslrootcert={CA}", password=None):
    """Run ``sql`` from ``host`` over the network; the password travels by environment, as everywhere."""
    password = password or secret("postgresql_password")
    return host.run(
        "PGPASSWORD=%s psql -XtAw -v ON_ERROR_STOP=1 %s -c %s",
        password,
        f"host=db1 user={user} dbname={database} {options}",
        sql,
    )


def test_owner_can_create_and_read_over_verified_tls(on):
    result = psql(on("client1"), "CREATE TABLE t (n int); INSERT INTO t VALUES (42); SELECT n FROM t; DROP TABLE t")
    assert result.rc == 0, result.stderr
    assert "42" in result.stdout
    cipher = psql(on("client1"), "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert cipher.stdout.strip().startswith("TLSv1.")


@pytest.mark.parametrize(
    ("attempt", "complaint"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"options": "sslmode=disable"}, "no encryption"),
        ({"user": "postgres"}, "pg_hba.conf"),
        ({"database": "postgres"}, "pg_hba.conf"),
    ],
)
def test_strangers_are_refused(on, attempt, complaint):
    result = psql(on("client1"), "SELECT 1", **attempt)
    assert result.rc != 0
    assert complaint in result.stderr


def test_a_host_that_is_not_in_the_topology_is_refused(on):
    """db1 itself, by its own outside address, is not among the clients."""
    assert "pg_hba.conf" in psql(on("db1"), "SELECT 1").stderr


def test_sizes_follow_the_memory_and_settings_win(on):
    shown = (
        on("db1")
        .check_output(
            "runuser -u postgres -- psql -XtAc \"SELECT name || '=' || setting FROM pg_settings "
            "WHERE name IN ('shared_buffers', 'log_min_duration_statement', 'max_connections')\""
        )
        .splitlines()
    )
    assert "shared_buffers=16384" in shown  # 128 MiB in pages of 8 KiB
    assert "log_min_duration_statement=250" in shown


def test_password_is_stored_as_scram_and_not_logged(on):
    db1 = on("db1")
    stored = db1.check_output(
        "runuser -u postgres -- psql -XtAc \"SELECT rolpassword FROM pg_authid WHERE rolname = 'image_editor'\""
    )
    assert stored.startswith("SCRAM-SHA-256$")
    assert db1.run("grep -r %s /var/log/postgresql", secret("postgresql_password")).stdout == ""


def test_survives_a_kill(on):
    db1 = on("db1")
    db1.check_output("pkill -9 -o -u postgres postgres")
    assert db1.run("timeout 20 sh -c 'until pg_isready -q; do sleep 0.2; done'").rc == 0
    assert psql(on("client1"), "SELECT 1").rc == 0
