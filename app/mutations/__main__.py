"""Mutation tests: ``python -m mutations [MODULE…]`` in app/.

Cosmic Ray changes the modules that keep edits from being lost and private addresses from being opened, one small
change (a mutant) at a time. If no test of the module fails, the mutant survives: no test holds the changed code. Each
module is changed in a copy of this folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

APP = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

# The quickest tests first: the first failure ends the test of a mutant.
TESTS = {
    "image_editor/addresses/__init__.py": "tests/test_addresses.py",
    "image_editor/http_client.py": "tests/test_http_client.py"
    " tests/api/test_edits.py::test_urls_of_the_internal_network_are_refused",
    "image_editor/pipeline/message.py": "tests/pipeline/test_message.py",
    "image_editor/pipeline/reconciler.py": "tests/pipeline/test_reconciler.py",
    "image_editor/pipeline/transitions.py": "tests/pipeline/test_transitions.py"
    " tests/pipeline/test_documents.py::test_a_requeued_edit_does_not_keep_its_former_state"
    " tests/pipeline/test_statements.py tests/api/test_batches.py",
    "image_editor/webhooks/callbacks.py": "tests/webhooks/test_callbacks.py tests/webhooks/test_deliveries.py",
    "image_editor/webhooks/receivers.py": "tests/webhooks/test_receivers.py",
    "image_editor/webhooks/signing_secrets.py": "tests/webhooks/test_signature.py",
}

# Survivors that need no test, by the beginning of the changed line. They do not count.
NEAR = "a value near it does as well"
FINE = {
    "ROUND_MAX = ": NEAR,
    "LONG = ": NEAR,
    "MISSING = ": NEAR,
    "UNSENT = ": NEAR,
    "REPEATED = ": NEAR,
    "DELAYS = ": NEAR,
    "TIMEOUT = ": NEAR,
    "while chunk := response.raw.read(": NEAR,
    "return Attempt(at.isoformat(), round((time.monotonic() - began) * ": NEAR,
    "/,": "all callers name the others",
    "def new(url: str, /, edit_id": "all callers name the others",
    "return prepared(_RENEW, values).rowcount >= 1": "an id has one row at most",
    "changed = prepared(_POSTPONE, values).rowcount >= 1": "an id has one row at most",
    "batch.save(force_insert=False)": "Django inserts a row that has a new id",
    "if held_by and holder.gone(held_by[ -1])": "the row has one column",
    "if len(waiting) >= LONG": "no more messages are read",
    'if turn.state >= "free"': "the only other state here is `broken`",
    'if host["scheme"] <= "https"': "urllib3 leaves the settings of TLS out for http",
    'if host["scheme"] >= "https"': "the only other scheme is http",
    "if response.status_code > 200": "no final answer has a lower status",
    "RESOLVE_SECONDS = ": NEAR,
    "_LOOKUPS = ": NEAR,
    "ATTEMPTS_KEPT = ": NEAR,
    "CALL_MAX = ": NEAR,
    "REMEMBERED = ": NEAR,
    "@dataclass(frozen=": "frozen and slots guard against mistakes in our own code and save memory",
    "if len(url) == settings.URL_MAX_CHARS and _PLAIN": "more URLs take the slow check, with the same result",
    "if threading.current_thread() != threading.main_thread()": "threads are equal only to themselves",
    "except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError, CosmicRay": "a parser may",
    'return self._whole() if settings.TASK_PAYLOAD <= "full"': "the setting has only two values",
    'return cls(**known) if known.get("version") == VERSION and known.keys() > ': "`version` is not in REQUIRED",
    "REQUIRED = {field.name for field in fields(EditMessage) if field.default == ": "MISSING is equal only to itself",
}

# SIGINT lets pytest stop the servers that it started. One replacement of an operator tells as much as ten.
CONFIG = """
[cosmic-ray]
module-path = "{module}"
timeout = 210
excluded-modules = []
test-command = "timeout --signal=INT 180 {bin}/pytest -x -q -n 0 -p no:cacheprovider {tests}"

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = [
    "core/ReplaceBinaryOperator_(?!Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Pow_Mul|BitOr_BitAnd|BitAnd_BitOr)",
    "core/ReplaceComparisonOperator_.*_Is(Not)?$",
]
"""


def tested(module: str) -> list[tuple[str, bool]]:
    """Each mutant of a module: its changed lines, and whether a test failed."""
    with tempfile.TemporaryDirectory() as directory:
        app = Path(directory) / "app"
        shutil.copytree(APP, app, ignore=shutil.ignore_patterns(".venv"))
        (app / "mutations.toml").write_text(CONFIG.format(module=module, bin=BIN, tests=TESTS[module]))

        def cosmic_ray(*command: str) -> str:
            ran = subprocess.run([BIN / command[0], *command[1:]], cwd=app, capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(f"{module}: {' '.join(command)}: {ran.stdout[-4000:]}{ran.stderr[-4000:]}")
            return ran.stdout

        cosmic_ray("cosmic-ray", "baseline", "mutations.toml")  # fails if a test fails without a change
        cosmic_ray("cosmic-ray", "init", "mutations.toml", "mutations.sqlite")
        cosmic_ray("cr-filter-operators", "mutations.sqlite", "mutations.toml")
        cosmic_ray("cosmic-ray", "exec", "mutations.toml", "mutations.sqlite")
        cosmic_ray("cosmic-ray", "baseline", "mutations.toml")  # or the mutants failed because the machine was worn out
        dumped = [json.loads(line) for line in cosmic_ray("cosmic-ray", "dump", "mutations.sqlite").splitlines()]
    # Other outcomes: the mutant is of an operator that is left out, or Cosmic Ray could not make the change.
    results = [result for _, result in dumped if result and result["worker_outcome"] == "normal"]
    return [(changed(result), result["test_outcome"] != "survived") for result in results]


def changed(result: dict[str, Any]) -> str:
    """The lines that a mutant removes and adds."""
    lines = (result["diff"] or "").splitlines()
    return "\n".join(line for line in lines if line[:1] in ("-", "+") and line[:3] not in ("---", "+++"))


def fine(lines: str) -> str:
    """Why a mutant needs no test. Empty if it needs one."""
    added = lines.rpartition("\n+")[2].strip()
    return next((why for beginning, why in FINE.items() if added.startswith(beginning)), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[*TESTS, []], metavar="MODULE")
    parser.add_argument("--json", type=Path, help="write the score here")
    arguments = parser.parse_args()
    modules = arguments.modules or list(TESTS)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(modules, pool.map(tested, modules), strict=True))
    noticed = missed = 0
    for module, mutants in results.items():
        survivors = [lines for lines, killed in mutants if not killed]
        needed = [lines for lines in survivors if not fine(lines)]
        print(f"{module}: {len(mutants)} mutants, {len(survivors)} survived, {len(needed)} of them need a test")
        for lines in survivors:
            print(lines, fine(lines) or "NO TEST NOTICES THIS", sep="\n", end="\n\n")
        noticed += len(mutants) - len(survivors)
        missed += len(needed)
    score = noticed / (noticed + missed)
    print(f"score: {score:.3f}, {noticed} of {noticed + missed} mutants are noticed")
    if arguments.json:
        arguments.json.write_text(json.dumps({"score": score, "noticed": noticed, "missed": missed}))


if __name__ == "__main__":
    main()
