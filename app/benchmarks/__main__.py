"""How fast the application is, in ratios of one run: ``python -m benchmarks [--rounds N] [NAME…]`` in app/.

Everything runs on one host with real servers: PostgreSQL with fsync, Redis with its append-only file synced every
second, nginx as the media store, gunicorn and Celery workers with the flags of the platform's roles. The media store
knows the application by its TLS client certificate, as on the platform. There is no other TLS.
Both sides of a comparison run in turns (A B A B …), and a ratio is that of the medians. Processor time (`…_cpu_ms`, for
each request or task, of all processes of a server) hardly depends on what else the machine does. Rates depend on it.

post       `POST /api/v1/edits` of a URL, against a view that takes the same body and answers 202 at once. Both use the
           same gunicorn, connections and middleware (request id, access log line, sessions …). wrk sends the requests.
monitoring `POST /api/v1/edits` with metrics, scraped every two seconds, against the same without metrics.
pipeline   Edits of a tiny uploaded image, against a task that does nothing with the same message in the same worker and
           queue. The queue is filled first. Then the time is taken until the queue is empty and every message is
           acknowledged. An edit is complete: claim, download, libvips, upload, final UPDATE, Celery's result.
efficiency Whole edits a second, from the upload by POST to the stored result, against those of the engine alone in one
           process for each core. The image is a JPEG of 3 megapixels that is made to fit 512x512. The worker has one
           process for each core, as on the platform. Other numbers of processes are measured beside it. The load
           generator shares the cores. `floor` is the processor time of what no pipeline of these servers can do
           without: gunicorn reads the upload, nginx stores it and returns it over TLS, a task does nothing.
payload    Message `full` or `id`, and result backend on, on without compression (`plain`) or off: statements,
           throughput from a full queue, bytes of a result (its value, and Redis's memory for it), and latency from
           acceptance to the end at 40 edits a second.
image      Processor time, and elapsed time, of a 12-megapixel JPEG to a grey one 1024 pixels wide: the engine (one
           thread, as in a worker), against Pillow's open, convert, resize, save.
thumbor    Processor time of an image of 3 megapixels that is made to fit 512x512: the engine, against thumbor's engine
           with thumbor's defaults, both without a server. thumbor needs another version of Pillow, and so an
           environment of its own: `UV_PROJECT_ENVIRONMENT=.venv-thumbor uv sync --locked --only-group thumbor`.
memory     A worker process over 12-megapixel edits, and over 1,000 edits of a photo.
worst      The longest and the largest edit of benchmarks/hostile.py. Most of them are as much as the engine accepts.
costs      Processor time of each operation, against the cost model by which the engine refuses edits.
retention  A POST, a claim, a GET of an edit, and a list's first page and its page after 15,000 edits, in this process:
           with a million ended edits against a thousand, in two databases. Then retention removes old edits and their
           files from the million. Its speed and its schedule say how many it can remove in a day.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import requests

APP = Path(__file__).parent.parent
sys.path.insert(0, str(APP / "tests"))
from services import Process, Services, free_port, wait_for  # noqa: E402

SERVICES = Services(fsync=True)
TOKEN = "b" * 43
EDIT = {"image_url": "https://example.org/cat.jpg", "prompt": "greyscale, rotate 90"}
CONNECTIONS = 8  # as many as gunicorn has threads
CORES = os.cpu_count() or 2
REPORT: dict[str, Any] = {}  # what --json writes


# --- the platform ----------------------------------------------------------------------------------------------------
def start_gunicorn(log: str = "gunicorn.log", **env: str) -> str:
    """Start gunicorn with the settings of roles/web, on plain HTTP. Returns its address."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "backend.wsgi:application", "--bind", f"127.0.0.1:{port}"]
    command += ["--worker-class", "gthread", "--workers", str(2 * CORES), "--threads", "2", "--timeout", "30"]
    command += ["--keep-alive", "75", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]
    _start(command, log, **env)
    base = f"http://127.0.0.1:{port}"
    wait_for(lambda: requests.get(f"{base}/healthz", timeout=5).ok, 120, "gunicorn answers")
    return base


@cache
def worker(name: str) -> Process:
    """With the flags of roles/celery; it takes nothing until told to.

    The name is the result backend, `on`, `plain` or `off`, or with the result backend on, the number of processes.
    """
    processes = name if name.isdigit() else str(CORES)
    command = [sys.executable, "-m", "celery", "--app", "backend", "worker", "--queues", "edit"]
    command += ["--hostname", f"{name}@bench", "--concurrency", processes]
    command += ["--loglevel", "INFO", "--without-gossip", "--without-mingle"]
    env = {"IMAGE_EDITOR_CELERY_RESULT_BACKEND_ENABLED": str(name != "off")}
    env |= {"BENCHMARK_RESULT_COMPRESSION": "none"} if name == "plain" else {}
    started = _start(command, f"{name}.log", VIPS_CONCURRENCY="1", MALLOC_ARENA_MAX="2", **env)
    wait_for(lambda: " ready." in started.log.read_text(), 120, "the worker is ready")
    consume(name, False)
    return started


def _start(command: list[str], log: str, **env: str) -> Process:
    process = Process(command, SERVICES.dir / log, os.environ | env, APP)
    process.start()
    SERVICES.processes.append(process)
    return process


def cpu() -> dict[str, float]:
    """Seconds of processor time that each server has used so far, all its processes together."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
            used[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def below(pid: int) -> float:
        return used.get(pid, 0) + sum(below(child) for child, parent in parents.items() if parent == pid)

    return {process.log.stem: below(process.popen.pid) for process in SERVICES.processes}


def spent(before: dict[str, float], count: float) -> dict[str, float]:
    """Milliseconds of processor time for each of `count` since `before`, of the servers that did anything."""
    used = {f"{name}_cpu_ms": 1000 * (seconds - before.get(name, 0)) / max(count, 1) for name, seconds in cpu().items()}
    return {name: milliseconds for name, milliseconds in used.items() if milliseconds >= 0.01}


def consume(name: str, on: bool) -> None:
    """Let a worker take from the queue, or leave it alone."""
    from backend.celery import app

    change = app.control.add_consumer if on else app.control.cancel_consumer
    assert change("edit", destination=[f"{name}@bench"], reply=True, limit=1, timeout=30)


def wait_until_empty() -> None:
    """Wait until every message is acknowledged."""
    queue = SERVICES.admin()
    wait_for(lambda: not queue.llen("edit") and not queue.hlen("unacked"), 120, "the queue is empty")


def drain(results: str, messages: int) -> dict[str, float]:
    """Messages a second of a worker that empties the queue, acknowledgements included, and what each of them cost."""
    worker(results)
    before = cpu()
    started = time.perf_counter()
    consume(results, True)
    wait_until_empty()
    seconds = time.perf_counter() - started
    consume(results, False)
    return {"per_second": messages / seconds, **spent(before, messages)}


def publish_noops(count: int) -> None:
    from celery import current_app

    from image_editor.pipeline.message import EditMessage

    accepted_at = "2026-01-01T00:00:00+00:00"
    payload = EditMessage("0" * 36, EDIT["image_url"], EDIT["prompt"], "", 1, "bench", accepted_at).payload()
    with current_app.producer_or_acquire() as producer:
        for _ in range(count):
            current_app.send_task("benchmarks.noop", (payload,), queue="edit", producer=producer)


def accept(user: Any, image: str, prompt: str) -> str:
    """An edit as the API accepts it. Its id."""
    import uuid

    from django.utils import timezone

    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    now = timezone.now().isoformat()
    message = EditMessage(str(uuid.uuid4()), image, prompt, "", user.pk, "bench", now, fresh=True)
    transitions.accept(message)
    return message.task_id


def succeeded() -> int:
    ((count,),) = SERVICES.psql("SELECT count(*) FROM edit WHERE status = 'succeeded'", database="app")
    return count


def all_succeeded(count: int) -> None:
    """Forget the edits after making sure that each of them was done."""
    assert succeeded() == count, f"{succeeded()} of {count} edits succeeded"
    SERVICES.psql("TRUNCATE edit CASCADE", database="app")


# --- the measurements ------------------------------------------------------------------------------------------------
def load(url: str, seconds: float) -> dict[str, Any]:
    """POST edits for this many seconds. Returns the rate and what a request cost."""
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "-s", "benchmarks/post.lua", url]
    env = os.environ | {"BODY": json.dumps(EDIT), "TOKEN": TOKEN}
    before = cpu()
    ran = subprocess.run(command, cwd=APP, env=env, capture_output=True, text=True, check=True)
    result = json.loads(ran.stdout.splitlines()[-1])
    assert not result["failed"], result
    rate = result["requests"] / result["seconds"]
    return {"per_second": rate, **result, **spent(before, result["requests"])}


def post(user: Any, rounds: int) -> None:
    base = start_gunicorn()
    taken = alternate(rounds, bare=lambda: load(f"{base}/bare", 2), post=lambda: load(f"{base}/api/v1/edits", 4))
    table = report("post", taken)
    figure("post_vs_bare_view", table["post"]["per_second"] / table["bare"]["per_second"], "x", ">=0.3")
    SERVICES.processes.pop().stop()
    SERVICES.admin().flushall()
    SERVICES.psql("TRUNCATE edit CASCADE", database="app")


def monitoring(user: Any, rounds: int) -> None:
    counts = SERVICES.dir / "metrics"
    counts.mkdir()
    off = start_gunicorn("off.log")
    on = start_gunicorn("on.log", IMAGE_EDITOR_METRICS_ENABLED="true", PROMETHEUS_MULTIPROC_DIR=str(counts))

    def measured() -> dict[str, Any]:
        requests.get(f"{on}/metrics", timeout=5).raise_for_status()
        return load(f"{on}/api/v1/edits", 2)

    taken = alternate(3 * rounds, off=lambda: load(f"{off}/api/v1/edits", 2), on=measured)
    report("monitoring", taken)
    pairs = zip(taken["on"], taken["off"], strict=True)  # neighbours: whatever else the machine did, it did to both
    figure(
        "monitoring_api_cost", 1 - statistics.median(a["per_second"] / b["per_second"] for a, b in pairs), "", "<=0.03"
    )
    for _ in range(2):
        SERVICES.processes.pop().stop()
    SERVICES.admin().flushall()
    SERVICES.psql("TRUNCATE edit CASCADE", database="app")


def pipeline(user: Any, rounds: int) -> None:
    image = store("uploads/tiny.png", tiny_png())
    count = 400

    def noops() -> dict[str, float]:
        publish_noops(2 * count)
        return drain("on", 2 * count)

    def edits() -> dict[str, float]:
        for _ in range(count):
            accept(user, image, "greyscale")
        measured = drain("on", count)
        all_succeeded(count)
        return measured

    table = report("pipeline", alternate(rounds, noop=noops, edit=edits))
    figure("pipeline_vs_noop", table["edit"]["per_second"] / table["noop"]["per_second"], "x", ">=0.28")


def efficiency(user: Any, rounds: int) -> None:
    from urllib3.filepost import encode_multipart_formdata

    from image_editor import storage

    source, prompt, count = photo(2000, 1500), "fit 512x512", 100 * CORES
    path = SERVICES.dir / "photo.jpg"
    path.write_bytes(source)
    address = start_gunicorn().removeprefix("http://")
    gunicorn = SERVICES.processes[-1]
    body, content_type = encode_multipart_formdata({"prompt": prompt, "image": ("photo.jpg", source, "image/jpeg")})
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type}

    def upload(edits: int, path: str = "/api/v1/edits") -> None:
        with contextlib.closing(http.client.HTTPConnection(address)) as connection:
            for _ in range(edits):
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
                answer = response.read()
                assert response.status == 202, answer

    def pipeline_with(processes: str) -> dict[str, float]:
        worker(processes)
        consume(processes, True)
        before, began = cpu(), time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as clients:
            list(clients.map(upload, [count // CONNECTIONS] * CONNECTIONS))
        wait_until_empty()
        seconds, edits = time.perf_counter() - began, count // CONNECTIONS * CONNECTIONS
        measured = {"per_second": edits / seconds, **spent(before, edits)}
        consume(processes, False)
        all_succeeded(edits)
        return measured

    def alone() -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.alone", str(path), prompt, "3"]
        env = os.environ | {"VIPS_CONCURRENCY": "1", "MALLOC_ARENA_MAX": "2"}  # as roles/celery
        running = [subprocess.Popen(command, cwd=APP, env=env, stdout=subprocess.PIPE) for _ in range(CORES)]
        results = [json.loads(process.communicate()[0]) for process in running]
        return {
            "per_second": sum(result["per_second"] for result in results),
            "cpu_ms": statistics.mean(result["cpu_ms"] for result in results),
        }

    def floor() -> dict[str, float]:
        before, used = cpu(), time.process_time()
        upload(count, "/bare")
        for _ in range(count):
            storage.put("uploads/floor.jpg", source, "image/jpeg")
            storage.get("uploads/floor.jpg")
        publish_noops(count)
        drain(str(CORES), count)
        parts = {"here_cpu_ms": 1000 * (time.process_time() - used) / count, **spent(before, count)}
        return {"cpu_ms": sum(parts.values()), **parts}

    names = [str(number) for number in sorted({1, CORES, CORES + 1, 2 * CORES})]
    runs = {f"{name} processes": partial(pipeline_with, name) for name in names}
    table = report("efficiency", alternate(rounds, engine=alone, floor=floor, **runs))
    whole = table[f"{CORES} processes"]["per_second"]
    figure("pipeline_efficiency", whole / table["engine"]["per_second"], "of the engine's edits/s", ">=0.7")
    for process in (gunicorn, *map(worker, names)):
        SERVICES.processes.remove(process)
        process.stop()


COUNTED = """
SELECT coalesce(sum(calls) FILTER (WHERE query LIKE 'SELECT%'), 0),
       coalesce(sum(calls) FILTER (WHERE query ~ '^(INSERT|UPDATE|DELETE)'), 0)
FROM pg_stat_statements
WHERE userid = 'app'::regrole AND query NOT LIKE '% FOR KEY SHARE OF x'
"""


def payload(user: Any, rounds: int) -> None:
    from django.conf import settings

    image = store("uploads/tiny.png", tiny_png())
    count = 300

    def variant(message: str, results: str) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            settings.TASK_PAYLOAD = message
            SERVICES.admin(2).flushdb()
            for _ in range(count):
                accept(user, image, "greyscale")
            SERVICES.psql("SELECT pg_stat_statements_reset()", database="app")
            measured = drain(results, count)
            ((selects, writes),) = SERVICES.psql(COUNTED, database="app")
            all_succeeded(count)
            stored = result_bytes()
            p50, p95 = paced(results)
            settings.TASK_PAYLOAD = "full"
            statements = {"selects": float(selects) / count, "writes": float(writes) / count}
            return measured | statements | {"p50_ms": p50, "p95_ms": p95} | stored

        return run

    def result_bytes() -> dict[str, float]:
        """The mean size of a task result in Redis: of its value, and in memory with its key. Empty if there is none."""
        kept = SERVICES.admin(2)
        keys = list(kept.scan_iter("celery-task-meta-*"))
        if not keys:
            return {}
        return {
            "result_bytes": statistics.mean(map(kept.strlen, keys)),
            "result_redis_bytes": statistics.mean(map(kept.memory_usage, keys)),
        }

    def paced(results: str, edits: int = 100, per_second: int = 40) -> list[float]:
        """p50 and p95 in milliseconds from acceptance to the end, of edits that come at an even pace."""
        consume(results, True)
        began = time.perf_counter()
        for number in range(edits):
            time.sleep(max(began + number / per_second - time.perf_counter(), 0))
            accept(user, image, "greyscale")
        wait_for(lambda: succeeded() == edits, 30, "the last edit is done")
        consume(results, False)
        ((quantiles,),) = SERVICES.psql(
            "SELECT percentile_cont(ARRAY[0.5, 0.95])"
            " WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - accepted_at)) FROM edit",
            database="app",
        )
        all_succeeded(edits)
        return [1000 * seconds for seconds in quantiles]

    variants = {
        f"{message}, results {results}": variant(message, results)
        for message, results in [("full", "on"), ("full", "plain"), ("full", "off"), ("id", "on"), ("id", "off")]
    }
    table = report("payload", alternate(max(rounds - 3, 1), **variants))
    on, plain, off = (table[f"full, results {results}"] for results in ("on", "plain", "off"))
    figure("result_backend_cost", 1 - on["per_second"] / off["per_second"], "of tasks/s", "<=0.15")
    figure("result_compression_cost", 1 - on["per_second"] / plain["per_second"], "of tasks/s", "<=0.1")
    figure("result_bytes", on["result_bytes"], "B", "<=256")
    figure("result_bytes_plain", plain["result_bytes"], "B", "<=288")


def image(user: Any, rounds: int) -> None:
    from PIL import Image

    from image_editor.imaging.engines.local import create

    source, engine = photo(4000, 3000), create({})

    def ours() -> dict[str, float]:
        return timed(lambda: engine.edit(source, "greyscale, resize to 1024", lambda _: None, ""))

    def pillow() -> dict[str, float]:
        def edit() -> None:
            image = Image.open(io.BytesIO(source)).convert("L")
            image = image.resize((1024, round(image.height * 1024 / image.width)))
            image.save(io.BytesIO(), "JPEG", quality=85)

        return timed(edit)

    table = report("image", alternate(2 * rounds, pillow=pillow, engine=ours))
    for name, column in (("edit_vs_pillow", "cpu_ms"), ("edit_vs_pillow_elapsed", "elapsed_ms")):
        figure(name, table["pillow"][column] / table["engine"][column], "x", ">=2")


def thumbor(user: Any, rounds: int) -> None:
    from image_editor.imaging.engines.local import create

    engine, times = create({}), 5

    def ours(source: bytes) -> dict[str, float]:
        measured = timed(lambda: [engine.edit(source, "fit 512x512", lambda _: None, "") for _ in range(times)])
        result = engine.edit(source, "fit 512x512", lambda _: None, "")
        assert (result.width, result.height) == (512, 384)
        return {"cpu_ms": measured["cpu_ms"] / times, "bytes": len(result.data)}

    def theirs(path: Path) -> dict[str, float]:
        command = [APP / ".venv-thumbor/bin/python", "benchmarks/peer.py", path, str(times)]
        measured = json.loads(subprocess.run(command, cwd=APP, check=True, capture_output=True).stdout)
        assert measured.pop("size") == [512, 384]
        return measured

    for kind, extension in (("jpeg", "jpg"), ("png", "png"), ("webp", "webp")):
        path = SERVICES.dir / f"photo.{extension}"
        path.write_bytes(photo(2000, 1500, extension))
        runs = {"thumbor": partial(theirs, path), "engine": partial(ours, path.read_bytes())}
        table = report(f"thumbor {kind}", alternate(2 * rounds, **runs))
        figure(f"engine_vs_thumbor_{kind}", table["thumbor"]["cpu_ms"] / table["engine"]["cpu_ms"], "x", ">=2")


def memory(user: Any, rounds: int) -> None:
    large = store("uploads/large.jpg", photo(4000, 3000))
    small = store("uploads/photo.jpg", (APP / "tests/data/grace_hopper.jpg").read_bytes())

    def edits(image: str, prompts: Sequence[str], count: int) -> None:
        for number in range(count):
            accept(user, image, prompts[number % len(prompts)])
        drain("on", count)
        all_succeeded(count)

    edits(large, ("sepia", "rotate 90", "rotate 30", "blur 3, flip vertical", "resize to 1600x1200"), 20)
    peak = largest("VmHWM")
    edits(small, ("sepia", "blur 2", "resize 50%"), 200)
    warm = largest("VmRSS")
    edits(small, ("sepia", "blur 2", "resize 50%"), 1000)
    grown = largest("VmRSS") - warm
    report("memory", {"worker": [{"peak_mib": peak, "warm_mib": warm, "grown_mib": grown}]})
    figure("worker_peak_mib", peak, "MiB", "<=250")
    figure("worker_growth_mib", grown, "MiB", "<=5")


def worst(user: Any, rounds: int) -> None:
    from benchmarks import hostile

    taken = {}
    for name, measured, outcome in hostile.measured():
        assert outcome in ("done", "too_slow", "image_too_large"), (name, outcome)
        taken[f"{name[:48]} {outcome}"] = [measured]
    table = report("worst", taken)
    figure("edit_worst_seconds", max(row["seconds"] for row in table.values()), "s", "<=30")
    figure("edit_worst_mib", max(row["mib"] for row in table.values()), "MiB", "<=400")


def costs(user: Any, rounds: int) -> None:
    import pyvips

    from image_editor.imaging.engines.local import parse

    width, height = 2000, 1500
    content = pyvips.Image.new_from_file(str(APP / "tests/data/grace_hopper.jpg")).thumbnail_image(
        width, height=height, size="force"
    )
    source = content.bandjoin(200).cast("uchar").copy(interpretation="srgb").copy_memory()
    prompts = [
        "sepia",
        "invert",
        "flip vertical",
        "rotate 90",
        "rotate 30",
        'watermark "text"',
        "resize to 1000",
        "resize 300%",
    ]
    prompts += [
        f"{word} {sigma}"
        for word, most in (("blur", 100), ("sharpen", 10))
        for sigma in (0.3, 1, 3, 10, 30, 100)
        if sigma <= most
    ]
    taken = {}
    for prompt in prompts:
        (op,) = parse(prompt)
        pixels = max(width * height, math.prod(op.size(width, height)))
        used = min(timed(lambda op=op: op.apply(source).copy_memory())["cpu_ms"] for _ in range(rounds))
        taken[prompt] = [
            {"ns_per_pixel": 1e6 * used / pixels, "model": op.cost, "ratio": 1e6 * used / pixels / op.cost}
        ]
    table = report("costs", taken)
    figure("edit_cost_over_model", max(row["ratio"] for row in table.values()), "x", "<=1.5")


def retention(user: Any, rounds: int) -> None:
    from django.conf import settings
    from django.test import Client

    from image_editor.pipeline import retention, transitions

    client, count = Client(headers={"Authorization": f"Bearer {TOKEN}"}), 200
    rows = {"thousand": 1_000, "million": 1_000_000}
    gets: dict[str, list[str]] = {}
    pages: dict[str, str] = {}
    for name, number in rows.items():
        SERVICES.psql(f"CREATE DATABASE {name} OWNER app")
        use(name)
        owner = prepare()
        SERVICES.fill(owner.pk, number, "29 days", "1 hour", database=name)
        newest = "SELECT id, accepted_at FROM edit ORDER BY accepted_at DESC, id DESC"
        ((last, at),) = SERVICES.psql(f"{newest} OFFSET {min(15_000, number // 2)} LIMIT 1", database=name)
        pages[name] = base64.urlsafe_b64encode(f"{at.isoformat()} {last}".encode()).decode()
        gets[name] = [
            str(pk) for (pk,) in SERVICES.psql(f"SELECT id FROM edit ORDER BY random() LIMIT {count}", database=name)
        ]
    SERVICES.psql("CHECKPOINT")

    def median(calls: Iterable[Callable[[], Any]]) -> float:
        return statistics.median(timed(call)["elapsed_ms"] for call in calls)

    def get(address: str, **query: str) -> None:
        assert client.get(f"/api/v1/edits{address}", query).status_code == 200

    def measured(name: str) -> dict[str, float]:
        use(name)
        SERVICES.admin().flushall()  # the states of edits, and messages that nobody takes
        accepted: list[str] = []

        def post() -> None:
            answer = client.post("/api/v1/edits", EDIT, content_type="application/json")
            accepted.append(answer.json()["id"])

        taken = {
            "post_ms": median([post] * count),
            "claim_ms": median(partial(transitions.claim, edit_id, False) for edit_id in accepted),
            "get_ms": median(partial(get, f"/{edit_id}") for edit_id in gets[name]),
            "first_page_ms": median([partial(get, "")] * 50),
            "deep_page_ms": median([partial(get, "", cursor=pages[name])] * 50),
        }
        SERVICES.psql("DELETE FROM edit WHERE status = 'processing'", database=name)
        return taken

    table = report("retention", alternate(rounds, **{name: partial(measured, name) for name in rows}))
    thousand, million = table["thousand"], table["million"]
    figure("post_million_rows_ratio", max(million[column] / thousand[column] for column in thousand), "x", "<=1.2")

    use("million")
    purged = store_ended(owner, 5_000)
    removed, began = 0, time.perf_counter()
    while some := retention.purge_round(30):
        removed += some
    raw = removed / (time.perf_counter() - began)
    assert removed == purged
    idle = timed(lambda: retention.purge_round(30))["elapsed_ms"]
    in_a_round = min(raw * retention.ROUND_SECONDS, retention.ROUND_MAX)
    scheduled = in_a_round * 86400 / settings.PURGE_SECONDS
    taken = {"per_second": raw, "raw_per_day": 86400 * raw, "scheduled_per_day": scheduled, "idle_ms": idle}
    report("retention", {"purge": [taken]})
    figure("purge_rows_per_day", min(86400 * raw, scheduled), "rows", ">=2000000")
    use("app")
    for name in rows:
        SERVICES.psql(f"DROP DATABASE {name}")


def store_ended(user: Any, count: int) -> int:
    """Edits that ended 31 days ago, each with an upload and a result. Returns how many."""
    from datetime import timedelta
    from uuid import uuid4

    from django.utils import timezone

    from image_editor import storage
    from image_editor.models import Edit
    from image_editor.storage import names

    edits = []
    for number in range(count):
        edit_id, at = uuid4(), timezone.now() - timedelta(days=31, seconds=number / 20)
        upload, result = names.upload(edit_id, at, "jpg"), f"{names.results(edit_id, at)}0.jpg"
        for name in (upload, result):
            storage.put(name, b"picture", "image/jpeg")
        ended = {"status": "succeeded", "attempt": 1, "accepted_at": at, "finished_at": at, "result_name": result}
        edits.append(Edit(pk=edit_id, user=user, prompt="sepia", image_url=f"media:{upload}", **ended))
    Edit.objects.bulk_create(edits, batch_size=1000)
    return count


# --- common ----------------------------------------------------------------------------------------------------------
def alternate[T](rounds: int, **runs: Callable[[], T]) -> dict[str, list[T]]:
    """Results by name. Each is run once to warm up, then all of them in turns."""
    for run in runs.values():
        run()
    taken: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run())
    return taken


def use(database: str) -> None:
    """Let this process work on another database of the server."""
    from django.db import connection

    connection.close()
    connection.settings_dict["NAME"] = database


def prepare() -> Any:
    """Create the tables, and the user that owns TOKEN. Returns the user."""
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from image_editor.auth import digest
    from image_editor.models import ApiToken

    call_command("migrate", verbosity=0)
    user = User.objects.create(username="bench")
    ApiToken.objects.create(user=user, digest=digest(TOKEN))
    return user


def timed(call: Callable[[], object]) -> dict[str, float]:
    used, started = time.process_time(), time.perf_counter()
    call()
    return {"cpu_ms": 1000 * (time.process_time() - used), "elapsed_ms": 1000 * (time.perf_counter() - started)}


def report(name: str, taken: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Print and keep the medians of every column of every row."""
    table = {}
    for row, runs in taken.items():
        columns = sorted(set().union(*runs), key=[*runs[0], *set().union(*runs)].index)
        table[row] = {column: statistics.median(run.get(column, 0.0) for run in runs) for column in columns}
        shown = "  ".join(f"{column} {value:.{0 if value >= 100 else 2}f}" for column, value in table[row].items())
        print(f"{name:9} {row:16} {shown}", flush=True)
    REPORT[name] = table
    return table


def figure(name: str, value: float, unit: str, limit: str | None) -> None:
    REPORT.setdefault("figures", []).append([name, round(value, 3), unit, limit])
    print(f"          {name} = {value:.3f} {unit} {limit or ''}", flush=True)


def largest(field: str) -> float:
    """MiB of the largest pool process of the worker `on`."""
    pids = subprocess.run(["pgrep", "-P", str(worker("on").popen.pid)], capture_output=True, text=True).stdout.split()
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return max(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def store(name: str, data: bytes) -> str:
    from image_editor import storage

    storage.put(name, data, "image/jpeg")
    return f"media:{name}"


def tiny_png() -> bytes:
    import pyvips

    return pyvips.Image.xyz(64, 64).cast("uchar").bandjoin(0).copy(interpretation="srgb").write_to_buffer(".png")


def photo(width: int, height: int, extension: str = "jpg") -> bytes:
    """A photo's content in this size."""
    import pyvips

    content = pyvips.Image.new_from_file(str(APP / "tests/data/grace_hopper.jpg"))
    options = {} if extension == "png" else {"Q": 90}
    return content.thumbnail_image(width, height=height, crop="centre").write_to_buffer(f".{extension}", **options)


MEASUREMENTS = {
    call.__name__: call
    for call in (post, monitoring, pipeline, efficiency, payload, image, thumbor, memory, worst, costs, retention)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    arguments = parser.parse_args()
    os.environ |= SERVICES.env | {
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        # Edits are counted, as on the platform, but the limits are never reached.
        "IMAGE_EDITOR_RATE_PER_MINUTE": "100000000",
        "IMAGE_EDITOR_QUOTA_PER_DAY": "100000000",
    }
    names = arguments.names or list(MEASUREMENTS)
    try:
        SERVICES.start()
        import django

        django.setup()
        user = prepare()
        started = time.monotonic()
        for name in names:
            MEASUREMENTS[name](user, arguments.rounds)
        print(f"{time.monotonic() - started:.0f} s")
        if arguments.json:
            arguments.json.write_text(json.dumps(REPORT, indent=2))
    finally:
        SERVICES.stop()


if __name__ == "__main__":
    main()
