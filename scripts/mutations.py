"""Break the product on purpose, one line at a time, and see whether the test of the broken promise fails.

mutations.py [WORDS…]     only the mutations whose promise contains these words; without words, all of them

Each line is put back before the next one is changed. A mutation counts as caught only if the named test fails. The script
deploys the scenarios whose hosts it needs, destroys them at its end, and records how many mutations were caught.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import figures

ROOT = Path(__file__).resolve().parent.parent
# The tools of this repository, and Molecule's output as pytest writes it: its borders would break lines.
ENVIRONMENT = {
    "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
    "NO_COLOR": "1",
    "ANSIBLE_NOCOLOR": "1",
    "MOLECULE_COMMAND_BORDERS": "false",
    "MOLECULE_REPORT": "false",
}
APP = "app"  # the scenario that runs the application's own tests
APP_HOST = f"image-editor-test-{APP}-app1"


@dataclass(frozen=True)
class Mutation:
    """A change of one line of the product after which a promise is false, and the test that has to fail."""

    promise: str
    path: str
    old: str
    new: str
    scenario: str  # whose hosts the test needs; empty: none
    file: str  # the test's file; in scenario `app`, relative to app/
    test: str
    before: str = ""  # a test that leads to the state in which the test begins; it runs first and has to pass
    deploy: bool = False  # whether the change takes effect on the hosts, and not on the controller alone


MUTATIONS = [
    Mutation(
        "a save of Redis counts only if it began after it was asked for",
        "tools/image_editor_tools/redis/save.py",
        'info["rdb_saves"] <= before["rdb_saves"] or ', "",
        "", "tests/tools/test_redis_commands.py", "test_a_save_that_did_not_succeed_is_refused",
    ),
    Mutation(
        "a worker reads the row if a message has an unknown version",
        "app/image_editor/pipeline/message.py",
        'if known.get("version", VERSION) == VERSION and ', "if ",
        APP, "tests/pipeline/test_message.py", "test_every_shape_is_understood",
    ),
    Mutation(
        "an edit is refused from 64 KiB and one byte",
        "app/image_editor/api/validation.py",
        "message.size() > settings", "message.size() >= settings",
        APP, "tests/pipeline/test_message.py", "test_an_edit_is_refused_from_64_kib_and_one_byte",
    ),
    Mutation(
        "a worker that was thought dead does not overwrite a later attempt",
        "app/image_editor/pipeline/transitions.py",
        '_HELD = "attempt = %(held)s"', '_HELD = "%(held)s = %(held)s"',
        APP, "tests/pipeline/test_transitions.py", "test_a_frozen_worker_wakes_up_while_a_later_attempt_is_under_way",
    ),
    Mutation(
        "a scheduler does not take the lease of another before it ends",
        "app/image_editor/pipeline/scheduler.py",
        "scheduler_lease.expires_at < now()", "true",
        APP, "tests/pipeline/test_scheduler.py", "test_a_frozen_scheduler_is_replaced_and_sends_nothing_when_it_wakes_up",
    ),
    Mutation(
        "a scheduler sends nothing after its lease has ended",
        "app/image_editor/pipeline/scheduler.py",
        "if self.lease.held():", "if True:",
        APP, "tests/pipeline/test_scheduler.py", "test_a_job_is_not_sent_if_the_lease_has_ended_since_it_was_renewed",
    ),
    Mutation(
        "a proxy of the environment is not used",
        "app/image_editor/http_client.py",
        "session.trust_env = False", "session.trust_env = True",
        APP, "tests/test_http_client.py", "test_a_proxy_of_the_environment_is_not_used",
    ),
    Mutation(
        "a task result is compressed",
        "app/backend/settings.py",
        'CELERY_RESULT_COMPRESSION = "zlib"', "CELERY_RESULT_COMPRESSION = None",
        APP, "tests/pipeline/test_documents.py", "test_a_task_result_is_compressed_and_expires",
    ),
    Mutation(
        "a task result expires within an hour",
        "app/backend/settings.py",
        "CELERY_RESULT_EXPIRES = 3600", "CELERY_RESULT_EXPIRES = None",
        APP, "tests/pipeline/test_documents.py", "test_a_task_result_is_compressed_and_expires",
    ),
    Mutation(
        "exceptions of requests are counted as django-prometheus counts them",
        "app/image_editor/observability/request_metrics.py",
        "self.metrics.exceptions_by_view.labels(view=_view(request)).inc()", "pass",
        APP, "tests/observability/test_request_metrics.py", "test_every_series_is_that_of_the_library",
    ),
    Mutation(
        "a viewer of Flower changes nothing",
        "roles/nginx/templates/edge.conf.j2",
        '"{{ user }}" yes;', '"{{ user }}" no;',
        "application", "molecule/application/test_flower.py",
        "test_only_an_operator_on_our_own_pages_controls_workers", deploy=True,
    ),
    Mutation(
        "a rollback saves Redis before it changes anything",
        "roles/feature/tasks/backup.yml",
        "argv: [image-editor-redis, save]", 'argv: ["true"]',
        "single_host", "molecule/single_host/test_rollback.py",
        "test_a_rollback_makes_backups_and_switches_the_feature_off[result_backend]",
    ),
    Mutation(
        "hosts remember what was rolled back",
        "roles/feature/tasks/remembered.yml",
        "that: __feature_refusals | length == 0", "that: true",
        "single_host", "molecule/single_host/test_rollback.py",
        "test_site_yml_keeps_features_off_and_refuses_an_inventory_without_the_commits",
    ),
    Mutation(
        "a feature with which a host does not start is put back on every host",
        "roles/rolling_release/tasks/put_back.yml",
        '"{{ rolling_release_feature.before }}"', '"{{ rolling_release_feature.after }}"',
        "rolling_release", "molecule/rolling_release/test_rolling_release.py",
        "test_a_feature_with_which_a_host_does_not_start_is_put_back_on_all_hosts",
        before="test_a_feature_is_tried_on_the_first_hosts_and_then_switched_on_all",
    ),
    Mutation(
        "a rollout is refused if hosts run another release than the pin",
        "roles/rolling_release/tasks/unchanged.yml",
        "that: release_left in ['', release_target]", "that: true",
        "rolling_release", "molecule/rolling_release/test_rolling_release.py",
        "test_a_rollout_is_refused_if_the_hosts_run_another_release_than_the_pin",
    ),
    Mutation(
        "a release that fails its checks is put back on every host",
        "roles/rolling_release/tasks/put_back.yml",
        "when: release_left | default", "when: false and release_left | default",
        "rolling_release", "molecule/rolling_release/test_rolling_release.py",
        "test_a_release_that_fails_its_checks_is_put_back_and_rejected[start]",
    ),
    Mutation(
        "a release that loses a host is put back on the other hosts",
        "inventories/shared/application.yml",
        " or ansible_play_hosts != ansible_play_hosts_all", "",
        "rolling_release", "molecule/rolling_release/test_rolling_release.py",
        "test_a_release_that_loses_a_host_is_put_back_and_the_next_run_leads_the_host_back",
    ),
]  # fmt: skip


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """The product with the mutation. Raises SystemExit unless the line is there exactly once."""
    path = ROOT / mutation.path
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.path} has `{mutation.old}` {text.count(mutation.old)} times, not once: correct the table of mutations"
        )
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        yield
    finally:
        path.write_text(text)


def molecule(action: str, scenario: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(["molecule", action, "-s", scenario], **environment)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command at the top of the repository; return the finished process, both streams in stdout."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def selected(mutation: Mutation) -> str:
    """The tests to run, as an expression for pytest's option -k."""
    tests = [test.rstrip("]").replace("[", " and ") for test in (mutation.before, mutation.test) if test]
    return " or ".join(f"({test})" for test in tests)


def copy_to_app(mutation: Mutation) -> None:
    """Copy the mutation's file, as it is now, to the host that runs the application's tests."""
    run(["docker", "cp", "--quiet", mutation.path, f"{APP_HOST}:/home/tester/{mutation.path}"]).check_returncode()


def run_tests(mutation: Mutation) -> str:
    """What pytest says of the product as it is now."""
    pytest = f"pytest -q -p no:cacheprovider -k '{selected(mutation)}' {mutation.file}"
    if mutation.scenario == APP:
        copy_to_app(mutation)
        in_app = f"cd /home/tester/app && .venv/bin/{pytest} -n 0"
        return run(["docker", "exec", APP_HOST, "runuser", "-u", "tester", "--", "sh", "-c", in_app]).stdout
    if mutation.scenario:
        return molecule("verify", mutation.scenario, PYTEST_ADDOPTS=f"-k '{selected(mutation)}'").stdout
    return run(["sh", "-c", pytest]).stdout


def deploy(scenario: str) -> None:
    """Create the hosts of a scenario and run its roles. Raises SystemExit if that fails."""
    molecule("destroy", scenario)
    ran = molecule("converge", scenario)
    if ran.returncode:
        raise SystemExit(f"{scenario} could not be deployed: {ran.stdout[-3000:]}")


def is_caught(mutation: Mutation) -> bool:
    """Break the product, run the test, and put the line back. Whether the test failed. Prints one line."""
    with broken(mutation):
        if mutation.deploy:
            deploy(mutation.scenario)
        said = run_tests(mutation)
    if mutation.scenario == APP:
        copy_to_app(mutation)  # as it was
    failed = "".join(line for line in said.splitlines() if line.startswith("FAILED "))
    caught = f"::{mutation.test}" in failed and not (mutation.before and f"::{mutation.before}" in failed)
    print(f"{'caught' if caught else 'MISSED':7} not true any more: {mutation.promise}", flush=True)
    if not caught:
        print(said[-3000:])
    return caught


def main(words: list[str]) -> int:
    """See the module's docstring."""
    chosen = [mutation for mutation in MUTATIONS if all(word in mutation.promise for word in words)]
    caught = 0
    for scenario, mutations in itertools.groupby(chosen, key=lambda mutation: mutation.scenario):
        mutations = list(mutations)
        if scenario and not all(mutation.deploy for mutation in mutations):
            deploy(scenario)
        caught += sum(map(is_caught, mutations))
        if scenario:
            molecule("destroy", scenario)
    print(f"{caught} of {len(chosen)} mutations were caught")
    if not words:
        figures.record("mutations_caught", caught, "mutations", f">={len(MUTATIONS)}")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
