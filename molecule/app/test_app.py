import json
import os
import re
import sys

from helpers import ROOT, in_soak

sys.path.insert(0, str(ROOT / "scripts"))
import figures


def test_every_test_of_the_application_passes_as_an_unprivileged_user(host):
    """Run the application's tests as a user other than root. Every test must pass, and none may be skipped."""
    # `make soak` sets SOAK and the number of examples. A seed that a failed run printed repeats that run's examples.
    passed_on = " ".join(f"{name}={os.environ.get(name, '')}" for name in ("SOAK", "FUZZ_EXAMPLES", "FUZZ_SEED"))
    # As Ansible does (helpers.playbook), it leaves the processor to the hosts of other scenarios, whose answers are measured.
    command = f"runuser -u tester -- nice env {passed_on} .venv/bin/pytest -q -p no:cacheprovider"
    result = host.run(f"cd /home/tester/app && {command}")
    print(result.stdout)
    with (ROOT / "build/figures.jsonl").open("a") as measured:  # also the figures that miss their limits
        measured.write(host.file("/home/tester/build/figures.jsonl").content_string)
    assert result.rc == 0, result.stdout[-8000:]
    passed = int(re.search(r"(\d+) passed", result.stdout).group(1))
    assert passed > 250
    assert "skipped" not in result.stdout.splitlines()[-1]


def test_the_client_installs_from_its_directory(host):
    """By pip, into an environment of its own, as its users do: with its dependency, its types and its licence."""
    tester = "cd / && runuser -u tester -- env HOME=/home/tester"
    python = f"{tester} /tmp/client/bin/python"
    host.check_output(f"{tester} python3 -m venv /tmp/client")
    host.check_output(f"{python} -m pip -q install /home/tester/clients/python")
    shown = host.check_output(f"{python} -m pip show --files image-editor-client").splitlines()
    assert "Requires: urllib3" in shown
    installed = [line.strip() for line in shown]
    assert "image_editor_client/py.typed" in installed
    (licence,) = [line for line in installed if line.endswith("/LICENSE")]
    site = next(line.removeprefix("Location: ") for line in shown if line.startswith("Location: "))
    assert host.file(f"{site}/{licence}").content_string == (ROOT / "LICENSE").read_text()
    program = "from image_editor_client import AsyncClient, Client, verify; print(Client.__module__)"
    assert host.check_output(f"{python} -c '{program}'").startswith("image_editor_client")


@in_soak
def test_most_small_changes_of_the_code_are_noticed(host):
    """Change five modules in small ways, one change at a time, and run the module's tests after each change."""
    command = "runuser -u tester -- .venv/bin/python -m mutations --json ../mutations.json"
    result = host.run(f"cd /home/tester/app && {command}")
    print(result.stdout)
    assert result.rc == 0, result.stderr[-8000:]
    score = json.loads(host.file("/home/tester/mutations.json").content_string)["score"]
    assert figures.record("mutation_score", round(score, 3), "", ">=0.85")["ok"], result.stdout[-8000:]
