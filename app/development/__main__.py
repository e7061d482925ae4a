"""The application for development: ``python -m development [--port 8000]`` in app/. `make dev` runs it in a container.

PostgreSQL, Redis and nginx are private processes, as in the tests, and their data ends with them. The web server and
the workers start again when a Python file changes, and translations are compiled when they change. Variables
``IMAGE_EDITOR_…`` of the caller win over the settings made here.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import requests

APP = Path(__file__).parent.parent
sys.path.insert(0, str(APP / "tests"))
sys.path.append("/srv/tools")
from services import Services, wait_for  # noqa: E402

from image_editor.pipeline import queues  # noqa: E402

try:
    from image_editor_tools.language import said  # scripts/dev mounts it
except ImportError:

    def said(text: str, stream: TextIO) -> str:
        return text


USER, TOKEN = "developer", "a-token-for-development-on-this-machine"
SECONDS = 60  # until everything must be ready
WORKER = ("-m", "celery", "-A", "backend", "worker", "-Q", ",".join(queues.NAMES), "--concurrency", "2")
QUIETLY = ("--without-gossip", "--without-mingle", "--loglevel", "INFO")


class Program:
    """A child process that can be started again."""

    def __init__(self, *args: str) -> None:
        self.args = args

    def start(self) -> None:
        self.popen = subprocess.Popen([sys.executable, *self.args], cwd=APP, start_new_session=True)

    def stop(self) -> None:
        """A worker finishes what it does, for some seconds. Then what is left of its children is killed."""
        self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def say(text: str) -> None:
    """Print the lines in the language of whoever reads them."""
    print("\n".join(said(line, sys.stdout) for line in text.split("\n")), flush=True)


def manage(*args: str, stdin: str = "") -> None:
    subprocess.run([sys.executable, "manage.py", *args], cwd=APP, input=stdin, text=True, check=True)


def compile_translations() -> None:
    for po in APP.glob("image_editor/locale/*/LC_MESSAGES/*.po"):
        subprocess.run(["msgfmt", f"--output-file={po.with_suffix('.mo')}", po], check=False)  # it prints what is wrong


def changed_at(suffix: str) -> dict[Path, float]:
    """When each source file was changed. A file that is replaced at this moment is left out, and seen the next time."""
    found = {}
    for folder in ("backend", "image_editor"):
        for path in (APP / folder).rglob(f"*{suffix}"):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime
    return found


def reload(workers: list[Program]) -> None:
    """Start the workers again, or compile the translations, when a file has changed. The web server sees to itself."""
    python, texts = changed_at(".py"), changed_at(".po")
    while True:
        time.sleep(1)
        python_before, texts_before = python, texts
        python, texts = changed_at(".py"), changed_at(".po")
        if texts != texts_before:
            compile_translations()
        if python != python_before:
            say("development: starting the workers again")
            for worker in workers:
                worker.stop()
                worker.start()


def edited(base: str) -> bool:
    """Whether all demo edits have succeeded."""
    answer = requests.get(f"{base}/api/v1/edits", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5)
    return {edit["status"] for edit in answer.json().get("items", [])} == {"succeeded"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m development", description="Run the application for development.")
    parser.add_argument("--port", type=int, default=8000, help="of the web server, on the loopback address")
    port = parser.parse_args().port
    base = f"http://localhost:{port}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    began = time.monotonic()
    services = Services()
    defaults = services.env | {
        "IMAGE_EDITOR_DEBUG": "true",
        "IMAGE_EDITOR_PUBLIC_URL": base,
        "IMAGE_EDITOR_FETCH_ALLOWED_HOSTS": "localhost,127.0.0.1",  # images and receivers of callbacks on this machine
    }
    os.environ.update({name: value for name, value in defaults.items() if name not in os.environ})
    lines = [f"export {name}={shlex.quote(os.environ[name])}\n" for name in defaults]
    (services.dir / "env").write_text("".join(lines))  # for `scripts/dev manage`
    workers = [
        Program(*WORKER, *QUIETLY),
        Program("-m", "celery", "-A", "backend", "beat", "--schedule", str(services.dir / "beat")),
    ]
    programs = [Program("manage.py", "runserver", f"127.0.0.1:{port}"), *workers]
    started = []
    try:
        compile_translations()
        services.start()
        manage("migrate", "--verbosity", "0")
        manage("ensure_user", USER, "--staff", stdin=TOKEN)
        for program in programs:
            program.start()
            started.append(program)
        wait_for(lambda: requests.get(f"{base}/readyz", timeout=5).ok, SECONDS, "the web server is ready")
        manage("load_demo", USER)
        wait_for(lambda: edited(base), SECONDS, "the demo images are edited")
        say(f"""
development: ready in {time.monotonic() - began:.1f} s
  page   {base}/        user {USER}, token {TOKEN}
  admin  {base}/admin/  after you have signed in on the page
  API    curl -H 'Authorization: Bearer {TOKEN}' -F image=@photo.jpg -F prompt=sepia {base}/api/v1/edits
A change of a Python file starts the web server and the workers again. Ctrl+C ends everything, and its data.
""")
        reload(workers)
    except KeyboardInterrupt:
        say("development: ended")
    finally:
        for program in started:
            program.stop()
        services.stop()


if __name__ == "__main__":
    main()
