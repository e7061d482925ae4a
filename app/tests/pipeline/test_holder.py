"""Whether the process that holds a claim still runs."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import APP

SAY = "from image_editor.pipeline.holder import me; print(me(), flush=True); input()"


@pytest.fixture
def process() -> Iterator[subprocess.Popen]:
    started = subprocess.Popen(
        [sys.executable, "-c", SAY], cwd=APP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield started
    started.kill()
    started.communicate()


def test_a_process_is_gone_when_it_has_ended(process: subprocess.Popen) -> None:
    from image_editor.pipeline import holder

    name = process.stdout.readline().strip()
    assert not holder.gone(name)
    process.kill()
    while (state := holder._stat(process.pid)[0]) != "Z":
        assert state
    assert holder.gone(name), "a zombie counts as running"
    process.communicate()
    assert holder.gone(name)


def test_this_process_is_not_gone_and_another_that_had_its_id_is() -> None:
    from image_editor.pipeline import holder

    name = holder.me()
    assert not holder.gone(name)
    place_and_pid, _, started = name.rpartition(":")
    assert holder.gone(f"{place_and_pid}:{int(started) - 1}")


@pytest.mark.parametrize("part", [0, 1, 2])
def test_nobody_can_tell_about_a_process_of_another_host_boot_or_namespace(part: int) -> None:
    from image_editor.pipeline import holder

    parts = holder.me().split(":")
    parts[-1] = "1"
    parts[part] += "0"
    assert not holder.gone(":".join(parts))
    assert not holder.gone("")
