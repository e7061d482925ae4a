"""Real PostgreSQL, Redis and nginx as private child processes on free loopback ports, from Debian's packages."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

POSTGRESQL = Path("/usr/lib/postgresql/17/bin")
MEDIA_HOSTS = {"nginx": "127.0.0.1", "nginx2": "127.0.0.2"}  # of which most tests have the first one alone
PASSWORD = "p@ss/word"  # with characters that must be quoted in URLs
MEDIA_KEY = "media-signing-key"


def free_ports(count: int) -> list[int]:
    """Different ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:  # all at a time: the kernel may give a port that was closed a moment ago
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def free_port() -> int:
    return free_ports(1)[0]


def wait_for(condition: Callable[[], object], seconds: float = 15, what: str | Callable[[], str] = "") -> object:
    """Return the first true value of the condition. Raises AssertionError after ``seconds``: a function says why."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, redis.RedisError, psycopg.OperationalError):
            if value := condition():
                return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what or condition}")


def listening(port: int, host: str = "127.0.0.1") -> bool:
    with socket.create_connection((host, port), timeout=1):
        return True


def certificates(directory: Path, name: str, subject: str = "IP:127.0.0.1") -> None:
    """A CA and a certificate for a subject that it signed. Python 3.13 requires a key usage in the CA's certificate."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    ca = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=tests", "-addext", "keyUsage=critical,keyCertSign"]
    leaf = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}", "-CA", "ca.crt"]
    leaf += ["-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    for args in (ca, [*leaf, "-addext", f"subjectAltName={subject}"]):
        subprocess.run([*new, *args], cwd=directory, check=True, capture_output=True)


@dataclass
class Process:
    """A child process in a process group of its own, so that its children can be killed with it."""

    args: list[str]
    log: Path
    env: dict[str, str] | None = None
    cwd: Path | None = None
    popen: subprocess.Popen = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.args, stdout=log, stderr=log, env=self.env, cwd=self.cwd, start_new_session=True
            )

    def signal_all(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 15) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.popen.pid, number)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.args[0]} did not stop: {self.log.read_text()[-2000:]}") from None

    def kill(self) -> None:
        self.signal_all(signal.SIGKILL)
        self.popen.wait()


@contextlib.contextmanager
def frozen(process: Process) -> Iterator[None]:
    """Freeze a server and its children during the block. Each child of PostgreSQL has a process group of its own."""
    pid = process.popen.pid
    os.kill(pid, signal.SIGSTOP)  # first, so that it starts no more children
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    for child in found:
        os.kill(int(child), signal.SIGSTOP)
    try:
        yield
    finally:
        for stopped in (*found, pid):
            os.kill(int(stopped), signal.SIGCONT)


class Proxy(threading.Thread):
    """A proxy to Redis or PostgreSQL.

    While `deaf` is set, requests still reach the server, and replies are dropped. `cut` ends every connection. While
    `down` is set, a new connection is closed at once.
    """

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self.port, self.target = free_port(), target
        self.deaf, self.down = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.open: set[socket.socket] = set()

    def run(self) -> None:
        while True:
            client, _ = self.listener.accept()
            try:
                if self.down.is_set():
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self.open |= {client, server}
            for source, sink, lossy in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, lossy), daemon=True).start()

    def cut(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                connection.shutdown(socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, sink: socket.socket, lossy: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not (lossy and self.deaf.is_set()):
                    sink.sendall(data)
        with contextlib.suppress(OSError):  # so that Redis forgets what a dead worker waits for
            sink.shutdown(socket.SHUT_WR)
        self.open.discard(source)


class Services:
    """The services. `start` starts them. Their ports are known before, because Django's settings contain the ports."""

    def __init__(self, fsync: bool = False) -> None:
        self.fsync = fsync  # only benchmarks need it: tests discard the data
        self.dir = Path(tempfile.mkdtemp(prefix="image-editor-tests-"))
        self.dir.chmod(0o755)
        self.postgres_port, self.redis_port, self.nginx_port, self.media_port = free_ports(4)
        self.redis: Process | None = None
        self.postgres: Process | None = None
        self.processes: list[Process] = []

    @property
    def env(self) -> dict[str, str]:
        """The application's environment file, as the platform writes it."""
        quoted = PASSWORD.replace("@", "%40").replace("/", "%2F")
        redis_url = f"redis://app:{quoted}@127.0.0.1:{self.redis_port}"
        return {
            "IMAGE_EDITOR_SECRET_KEY": "tests",
            "IMAGE_EDITOR_PUBLIC_URL": "http://testserver",
            "IMAGE_EDITOR_ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
            "IMAGE_EDITOR_DATABASE_URL": f"postgresql://app:{quoted}@127.0.0.1:{self.postgres_port}/app?sslmode=disable",
            "IMAGE_EDITOR_BROKER_URL": f"{redis_url}/0",
            "IMAGE_EDITOR_CACHE_URL": f"{redis_url}/1",
            "IMAGE_EDITOR_RESULT_URL": f"{redis_url}/2",
            "IMAGE_EDITOR_MEDIA_URLS": self.media_urls[0],
            "IMAGE_EDITOR_MEDIA_CA": f"{self.dir}/ca.crt",
            "IMAGE_EDITOR_MEDIA_CERTIFICATE": f"{self.dir}/host.crt",
            "IMAGE_EDITOR_MEDIA_KEY": f"{self.dir}/host.key",
            "IMAGE_EDITOR_MEDIA_PUBLIC_URL": f"http://127.0.0.1:{self.nginx_port}/media",
            "IMAGE_EDITOR_MEDIA_SIGNING_KEY": MEDIA_KEY,
            "IMAGE_EDITOR_CALLBACK_SIGNING_KEY": "callback-signing-key",
        }

    @property
    def media_urls(self) -> list[str]:
        """The base URLs of both media hosts."""
        return [f"https://{host}:{self.media_port}/dav" for host in MEDIA_HOSTS.values()]

    def through(self, proxy: Proxy) -> dict[str, str]:
        """The setting with which a process reaches the broker through a proxy."""
        url = self.env["IMAGE_EDITOR_BROKER_URL"]
        return {"IMAGE_EDITOR_BROKER_URL": url.replace(str(self.redis_port), str(proxy.port))}

    def start(self) -> None:
        self._postgres()
        self.start_redis()
        certificates(self.dir, "host", ",".join(f"IP:{host}" for host in MEDIA_HOSTS.values()))
        self.start_media()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _run(self, name: str, args: list[str], port: int, host: str = "127.0.0.1") -> Process:
        process = Process(args, self.dir / f"{name}.log", cwd=self.dir)
        process.start()
        self.processes.append(process)
        try:
            wait_for(lambda: listening(port, host), what=f"{name} listens")
        except AssertionError as error:
            raise AssertionError(f"{name}: {process.log.read_text()[-2000:]}") from error
        return process

    def _postgres(self) -> None:
        data = self.dir / "postgres"
        data.mkdir()
        become: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("postgres")
            os.chown(data, user.pw_uid, user.pw_gid)
            become = [
                "setpriv",
                f"--reuid={user.pw_uid}",
                f"--regid={user.pw_gid}",
                "--clear-groups",
            ]
        # Without a locale: this machine, a container for example, may lack the locale that the environment names.
        initdb = [*become, POSTGRESQL / "initdb", "-D", data, "-U", "super", "--auth=trust", "--no-sync"]
        subprocess.run([*initdb, "-E", "UTF8", "--no-locale"], check=True, stdout=subprocess.DEVNULL, cwd=data)
        options = {
            "port": self.postgres_port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
            "fsync": "on" if self.fsync else "off",
            "shared_preload_libraries": "pg_stat_statements", "max_connections": "50",
            "shared_buffers": "256MB" if self.fsync else "32MB",
            # In its directory, which `stop` removes. In /dev/shm, segments of a killed server stay.
            "dynamic_shared_memory_type": "mmap",
        }  # fmt: skip
        flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self.postgres_command = [*become, str(POSTGRESQL / "postgres"), "-D", str(data), *flags]
        self.start_postgres()
        self.psql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'", "CREATE DATABASE app OWNER app")
        self.psql("CREATE EXTENSION pg_stat_statements", database="app")

    def start_postgres(self) -> None:
        self.postgres = self._run("postgres", self.postgres_command, self.postgres_port)
        wait_for(lambda: self.psql("SELECT 1"), what="PostgreSQL is up")  # it listens before it is ready

    @contextlib.contextmanager
    def postgres_down(self) -> Iterator[None]:
        """Stop PostgreSQL, so that it ends all sessions and its port refuses connections. Start it again at the end."""
        self.postgres.stop(signal.SIGINT)
        self.processes.remove(self.postgres)
        try:
            yield
        finally:
            self.start_postgres()

    def end_sessions(self) -> None:
        """End all sessions of the application, and wait until they have ended."""
        self.psql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'")

    def psql(self, *statements: str, database: str = "postgres") -> list[tuple]:
        """Run statements as the superuser; return the rows of the last one."""
        rows: list[tuple] = []
        with psycopg.connect(
            host="127.0.0.1", port=self.postgres_port, user="super", dbname=database, autocommit=True
        ) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def fill(
        self,
        user_id: int,
        count: int,
        oldest: str,
        newest: str,
        finished: str = "accepted",
        database: str = "app",
        status: str = "failed",
    ) -> None:
        """Insert ended edits of a user, accepted at an even pace between two ages such as ``40 days``."""
        self.psql(
            f"""
            INSERT INTO edit (id, user_id, prompt, image_url, callback_url, request_digest, accepted_at, finished_at,
                              status, attempt, dispatches, result_name, result_type, error_code, error_detail)
            SELECT gen_random_uuid(), {user_id}, 'greyscale, rotate 90', 'https://example.org/cat.jpg', '', '',
                   accepted, {finished}, '{status}', 1, 1, '', '', 'image_url_failed', 'the server answered 404'
              FROM generate_series(1, {count}) AS number,
                   LATERAL (SELECT now() - '{newest}'::interval
                                   - ('{oldest}'::interval - '{newest}'::interval) * number / {count}) AS at (accepted)
            """,
            "VACUUM ANALYZE edit",
            database=database,
        )

    def start_redis(self) -> None:
        """Start Redis. A restarted Redis reads its append-only file."""
        directory = self.dir / "redis"
        directory.mkdir(exist_ok=True)
        config = directory / "redis.conf"
        config.write_text(
            f"port {self.redis_port}\nbind 127.0.0.1\ndir {directory}\nsave \"\"\nappendonly yes\n"
            "maxmemory-policy noeviction\n"
            "user default off\n"
            # The application has the same rights as on the platform.
            f"user app on >{PASSWORD} ~* &* +@all -@dangerous +info +client\n"
            "user super on nopass ~* &* +@all\n"
        )  # fmt: skip
        self.redis = self._run("redis", ["redis-server", str(config)], self.redis_port)
        wait_for(lambda: self.admin().ping(), what="Redis answers")

    def admin(self, db: int = 0) -> redis.Redis:
        return redis.Redis(port=self.redis_port, username="super", password="x", db=db, socket_timeout=3)

    def start_media(self, name: str = "nginx") -> None:
        """Start a media host, with the files that it had, and with none after ``media`` in its directory was removed.

        If the directory has a file ``full``, the host refuses writes, as it does if its disk is full.
        """
        directory, host = self.dir / name, MEDIA_HOSTS[name]
        (directory / "media").mkdir(parents=True, exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "nginx.conf").write_text(f"""
{user} daemon off; worker_processes 1; pid {directory}/pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off; client_max_body_size 40m; include /etc/nginx/mime.types;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen {host}:{self.media_port} ssl;
    ssl_certificate {self.dir}/host.crt; ssl_certificate_key {self.dir}/host.key;
    ssl_verify_client on; ssl_client_certificate {self.dir}/ca.crt;
    set $full "";
    if (-f {directory}/full) {{ set $full $request_method; }}
    location /dav/ {{
      if ($full = PUT) {{ return 500; }}
      alias {directory}/media/; dav_methods PUT DELETE; create_full_put_path on; min_delete_depth 3;
      autoindex on; autoindex_format json;
    }}
  }}
  server {{
    listen {host}:{self.nginx_port};
    location /media/ {{
      alias {directory}/media/; secure_link $arg_md5,$arg_expires;
      secure_link_md5 "$secure_link_expires$uri {MEDIA_KEY}";
      if ($secure_link = "") {{ return 403; }}
      if ($secure_link = "0") {{ return 410; }}
    }}
  }}
}}
""")
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        args = [nginx, "-p", str(directory), "-c", str(directory / "nginx.conf")]
        self._run(name, args, self.nginx_port, host)

    def stop_media(self, name: str = "nginx") -> None:
        """Kill nginx, so that its port refuses connections."""
        process = self.media(name)
        process.kill()
        self.processes.remove(process)

    def media(self, name: str = "nginx") -> Process:
        """The process of a media host."""
        return next(process for process in self.processes if process.log.name == f"{name}.log")

    @contextlib.contextmanager
    def media_down(self, name: str = "nginx") -> Iterator[None]:
        """Kill nginx, and start it again at the end."""
        self.stop_media(name)
        try:
            yield
        finally:
            self.start_media(name)
