"""PostgreSQL as its clients see it, and as systemd runs it."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, changed, playbook, secret, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

pytestmark = pytest.mark.usefixtures("on")

CONVERGE = str(Path(__file__).parent / "converge.yml")
CA = "/etc/ssl/certs/image-editor-ca.crt"
TLS = f"sslmode=verify-full sslrootcert={CA}"


def psql(host, sql, user="image_editor_login", database="image_editor", options=TLS, password=None):
    """Run ``sql`` from ``host`` over the network. The password is in the environment."""
    password = password or secret("postgresql_password")
    return host.run(
        "PGPASSWORD=%s psql -XtAw -v ON_ERROR_STOP=1 %s -c %s",
        password,
        f"host=db1 user={user} dbname={database} {options}",
        sql,
    )


def local(host, sql):
    """Run ``sql`` on the host as postgres, over the local socket."""
    return host.check_output("runuser -u postgres -- psql -XtAc %s", sql)


@pytest.fixture
def owner():
    """How migrations sign in."""
    return {"user": "image_editor_owner_login", "password": secret("postgresql_owner_password")}


def converge(**settings):
    """Run the scenario's converge.yml with other ``postgresql_settings_extra``."""
    extra = json.dumps({"postgresql_settings_extra": settings})
    return playbook(CONVERGE, "-e", extra)


def test_the_owner_creates_tables_over_verified_tls(on, owner):
    result = psql(on("client1"), "CREATE TABLE t (n int); INSERT INTO t VALUES (42); SELECT n FROM t; DROP TABLE t", **owner)
    assert result.rc == 0, result.stderr
    assert "42" in result.stdout
    assert psql(on("client1"), "SELECT current_user", **owner).stdout.strip() == "image_editor"
    # PostgreSQL shows a session to the role that signed in, and not to the role that the session works as.
    cipher = psql(on("client1"), "SET ROLE NONE; SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert cipher.stdout.splitlines()[-1].startswith("TLSv1.")


@pytest.fixture
def table(on, owner):
    """A table of the owner's with one row."""
    assert psql(on("client1"), "CREATE TABLE t (id serial, n int); INSERT INTO t (n) VALUES (42)", **owner).rc == 0
    yield
    assert psql(on("client1"), "DROP TABLE t", **owner).rc == 0


ROWS = "INSERT INTO t (n) VALUES (1); UPDATE t SET n = 2 WHERE n = 1; DELETE FROM t WHERE n = 2; SELECT n FROM t"
DENIED, NOT_OWNER = "permission denied", "must be owner of table t"
BEYOND_ROWS = {
    "CREATE TABLE mine (n int)": DENIED,
    "DROP TABLE t": NOT_OWNER,
    "ALTER TABLE t ADD COLUMN m int": NOT_OWNER,
    "TRUNCATE t": DENIED,
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'": DENIED,
    "SET ROLE image_editor": DENIED,
    "CREATE ROLE mine": DENIED,
    "COPY t TO PROGRAM 'true'": DENIED,
    "SELECT pg_read_file('/etc/passwd')": DENIED,
}


@pytest.mark.usefixtures("table")
def test_the_application_works_with_rows_and_changes_no_table(on):
    assert psql(on("client1"), "SELECT current_user").stdout.strip() == "image_editor_runtime"
    done = psql(on("client1"), ROWS)
    assert done.rc == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "42"
    assert [sql for sql, complaint in BEYOND_ROWS.items() if complaint not in psql(on("client1"), sql).stderr] == []


@pytest.mark.usefixtures("table")
def test_a_login_that_worked_as_the_owner_loses_that(on):
    """As an earlier version of the role left it: the application's login worked as the owner."""
    db1 = on("db1")
    local(db1, "GRANT image_editor TO image_editor_login")
    local(db1, "ALTER ROLE image_editor_login SET role = image_editor")
    db1.check_output("runuser -u postgres -- psql -Xd image_editor -c %s", "REVOKE ALL ON t FROM image_editor_runtime")
    assert psql(on("client1"), "ALTER TABLE t ADD COLUMN m int").rc == 0
    ran = playbook(CONVERGE)
    assert ran.returncode == 0, ran.stdout
    assert psql(on("client1"), ROWS).rc == 0
    for sql in ("DROP TABLE t", "SET ROLE image_editor"):
        assert BEYOND_ROWS[sql] in psql(on("client1"), sql).stderr
    assert not changed(playbook(CONVERGE).stdout)


@pytest.mark.parametrize(
    ("attempt", "complaint"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"options": "sslmode=disable"}, "no encryption"),
        ({"user": "image_editor"}, "password authentication failed"),  # the owner has no password
        ({"user": "postgres"}, "pg_hba.conf"),
        ({"database": "postgres"}, "pg_hba.conf"),
    ],
)
def test_connections_without_tls_or_the_right_account_are_refused(on, attempt, complaint):
    result = psql(on("client1"), "SELECT 1", **attempt)
    assert result.rc != 0
    assert complaint in result.stderr


def test_a_host_that_is_not_in_the_topology_is_refused(on):
    """db1 itself connects from its own outside address, which is not among the clients."""
    assert "pg_hba.conf" in psql(on("db1"), "SELECT 1").stderr


def test_sizes_follow_from_the_memory_and_settings_override_the_sizes(on):
    shown = local(
        on("db1"),
        "SELECT name || '=' || setting FROM pg_settings "
        "WHERE name IN ('shared_buffers', 'log_min_duration_statement', 'max_connections', 'deadlock_timeout')",
    ).splitlines()
    assert "shared_buffers=16384" in shown  # 128 MiB in pages of 8 KiB
    assert "log_min_duration_statement=250" in shown
    assert "deadlock_timeout=2000" in shown, "postgresql_settings_extra wins over postgresql_settings"


def test_password_is_stored_as_scram_and_not_logged(on):
    db1 = on("db1")
    stored = local(db1, "SELECT rolpassword FROM pg_authid WHERE rolname = 'image_editor_login'")
    assert stored.startswith("SCRAM-SHA-256$")
    assert db1.run("grep -r %s /var/log/postgresql", secret("postgresql_password")).stdout == ""


def test_an_earlier_password_works_until_it_is_retired(on, owner):
    """Both logins work on the same tables, those of migrations and of the application. Roles that are no logins of these stay."""
    client, here = on("client1"), Path(__file__).parent
    old, new = {}, {"user": "image_editor_next", "password": "n" * 32}
    new_owner = {"user": "image_editor_owner_next", "password": "o" * 32}
    changes = {"postgresql_login": new["user"], "postgresql_password": new["password"]}
    changes |= {"postgresql_owner_login": new_owner["user"], "postgresql_owner_password": new_owner["password"]}
    given = ("-e", json.dumps(changes))
    local(on("db1"), "CREATE ROLE image_editor_reports LOGIN IN ROLE image_editor")
    ran = playbook(CONVERGE, *given)
    assert ran.returncode == 0, ran.stdout
    assert psql(client, "CREATE TABLE both_logins (n int)", **owner).rc == 0
    for login in (old, new):
        assert psql(client, "INSERT INTO both_logins VALUES (1)", **login).rc == 0
    assert psql(client, "DROP TABLE both_logins", **new_owner).rc == 0

    ran = playbook(str(here / "retire.yml"), *given)
    assert changed(ran.stdout), ran.stdout
    for login in (old, owner):
        assert psql(client, "SELECT 1", **login).rc != 0
    assert psql(client, "SELECT current_user", **new).stdout.strip() == "image_editor_runtime"
    assert psql(client, "SELECT current_user", **new_owner).stdout.strip() == "image_editor"
    assert local(on("db1"), "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'image_editor'") == "f"
    assert not changed(playbook(str(here / "retire.yml"), *given).stdout)

    for path in ("converge.yml", "retire.yml"):
        ran = playbook(str(here / path))
        assert ran.returncode == 0, ran.stdout
    assert psql(client, "SELECT 1", **old).rc == 0
    assert psql(client, "SELECT 1", **new).rc != 0
    local(on("db1"), "DROP ROLE image_editor_reports")


def test_postgresql_restarts_after_a_kill(on):
    db1 = on("db1")
    db1.check_output("pkill -9 -o -u postgres postgres")
    assert db1.run("timeout 20 sh -c 'until pg_isready -q; do sleep 0.2; done'").rc == 0
    assert psql(on("client1"), "SELECT 1").rc == 0


def test_postgresql_runs_hardened(on):
    """The server has no capabilities and cannot write the system. PostgreSQL's features still work."""
    db1 = on("db1")
    # Right after the kill in the test above, systemd and postmaster.pid name different processes.
    systemd, own = "systemctl show -P MainPID postgresql@17-main", "head -n 1 /var/lib/postgresql/17/main/postmaster.pid"
    until(
        "PostgreSQL answers, and systemd knows its main process",
        lambda: db1.run(f'pg_isready -q && [ "$({systemd})" = "$({own})" ]').rc == 0,
    )
    main = db1.check_output(systemd)
    status = db1.file(f"/proc/{main}/status").content_string
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    assert db1.run(f"nsenter -t {main} -m touch /etc/touched").rc != 0
    # The hardening keeps Debian's protection from the OOM killer. Where a container may not lower the score, no unit gets it.
    score = "systemd-run --quiet --wait --pipe --property=OOMScoreAdjust=-900 cat /proc/self/oom_score_adj"
    assert db1.check_output("systemctl show -P OOMScoreAdjust postgresql@17-main") == "-900"
    assert db1.file(f"/proc/{main}/oom_score_adj").content_string.strip() == db1.check_output(score)

    jit = "SET jit = on; SET jit_above_cost = 0; EXPLAIN ANALYZE SELECT sum(n) FROM generate_series(1, 1000) n"
    assert "JIT:" in local(db1, jit)
    parallel = "SET debug_parallel_query = on; SELECT count(*) FROM pg_class"
    assert int(local(db1, parallel).splitlines()[-1]) > 0, "parallel workers do not work"

    report = db1.check_output("systemd-analyze security --no-pager postgresql@17-main.service")
    exposure = float(re.search(r"Overall exposure level for postgresql@17-main.service: ([\d.]+)", report)[1])
    assert figures.record("postgresql_exposure", exposure, "of 10", "<=4")["ok"], report


def test_log_is_archived_into_a_directory_that_was_created_later(on):
    """The archive's directory is created while the server runs, as pgBackRest creates its directories."""
    db1 = on("db1")
    db1.check_output("install -d -o postgres -g postgres /var/lib/archive")
    local(db1, "SELECT pg_create_restore_point('test')")
    local(db1, "SELECT pg_switch_wal()")
    until("a file is archived", lambda: db1.check_output("ls /var/lib/archive"), 90)


def test_systemd_and_debians_command_stop_and_start_the_server(on):
    db1 = on("db1")
    for stop, start in (
        ("systemctl stop postgresql@17-main", "systemctl start postgresql@17-main"),
        ("pg_ctlcluster 17 main stop", "pg_ctlcluster 17 main start"),
    ):
        db1.check_output(stop)
        assert db1.run("pg_isready -q").rc != 0
        db1.check_output(start)
        until("PostgreSQL answers", lambda: db1.run("pg_isready -q").rc == 0)


def test_a_server_that_starts_before_its_host_has_its_address_listens_on_it_later(on):
    """As after a reboot with DHCP. Without the wait it would listen on localhost alone, and the exporter would not notice."""
    db1 = on("db1")
    route, link = db1.check_output("ip route show default"), db1.check_output("ip -4 -oneline address show eth0")
    present = re.search(r"inet (\S+) brd (\S+)", link)
    db1.check_output(f"ip address del {present[1]} dev eth0")
    try:
        db1.check_output("systemctl restart --no-block postgresql@17-main")
        time.sleep(5)
        assert db1.check_output("systemctl show -P ActiveState postgresql@17-main") == "activating"
    finally:
        db1.check_output(f"ip address add {present[1]} brd {present[2]} dev eth0 && ip route replace {route}")
    until("the client reaches the database", lambda: psql(on("client1"), "SELECT 1").rc == 0, 30)


def test_extra_settings_restart_only_where_needed(on):
    """A setting that a reload applies keeps the server running; one that needs a restart restarts the server."""
    db1 = on("db1")
    started = local(db1, "SELECT pg_postmaster_start_time()")
    ran = converge(deadlock_timeout="4s")
    assert ran.returncode == 0, ran.stdout
    assert local(db1, "SHOW deadlock_timeout") == "4s"
    assert local(db1, "SELECT pg_postmaster_start_time()") == started
    ran = converge(max_locks_per_transaction=96)
    assert ran.returncode == 0, ran.stdout
    assert local(db1, "SHOW max_locks_per_transaction") == "96"
    assert local(db1, "SHOW deadlock_timeout") == "3s", "a setting that left the inventory kept its value"
    assert local(db1, "SELECT pg_postmaster_start_time()") != started


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"work_memm": "4MB"}, "unrecognized configuration parameter"), ({"work_mem": "plenty"}, "invalid value for parameter")],
)
def test_invalid_extra_settings_are_refused_and_change_nothing(on, settings, complaint):
    path = "/etc/postgresql/17/main/conf.d/image-editor.extra.conf"
    before = on("db1").file(path).content_string
    ran = converge(**settings)
    assert ran.returncode != 0
    assert complaint in ran.stdout
    assert on("db1").file(path).content_string == before
    assert psql(on("client1"), "SELECT 1").rc == 0
