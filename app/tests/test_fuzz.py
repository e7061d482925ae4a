"""What nobody would send: requests made up from the API's own OpenAPI document, and pictures damaged at random.

The same ones each time; FUZZ_EXAMPLES (scripts/soak sets it) makes it so many, and other ones each time.
"""

import os
from typing import Any

import pytest
import schemathesis
from conftest import TOKEN
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import booleans
from schemathesis import GenerationMode, checks
from test_api import post

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 0)
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Host": "testserver"}

pytestmark = pytest.mark.django_db(transaction=True)
fuzzed = settings(
    max_examples=EXAMPLES or 12,
    derandomize=not EXAMPLES,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def operations(user: Any, settings: Any) -> Any:
    """The API as its document describes it, served by the real WSGI application without a limit on how much is sent."""
    from backend.wsgi import application

    settings.RATE_PER_MINUTE = settings.QUOTA_PER_DAY = 0
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application, headers={"Host": "testserver"})
    return [operation.ok() for operation in schema.get_all_operations()]


def test_valid_requests_are_answered_as_described(operations: Any, api: Any, photo: bytes) -> None:
    """No 5xx, no status or type that is not described, every document as its schema says."""
    item = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
    known = {
        "edit_id": post(api, item).json()["id"],
        "batch_id": post(api, {"items": [item]}, "/api/v1/batches").json()["id"],
    }
    seen = set()
    for operation in operations:

        @fuzzed
        @given(operation.as_strategy(), booleans())
        def check(case: Any, plausible: bool) -> None:
            if plausible:  # half of them get far: chance finds neither ids nor the words of a prompt
                case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
                if isinstance(case.body, dict):
                    case.body |= item if case.media_type == "application/json" else {"image": photo, "prompt": "sepia"}
                    case.body.pop("callback_url", None)
                    if "batches" in case.path:
                        case.body = {"items": [item] * len(case.body["items"])}
            seen.add((case.operation.label, case.call_and_validate(headers=HEADERS, checks=CHECKS).status_code))

        check()
    posts = {(f"POST /api/v1/{what}", code) for what in ("edits", "batches") for code in (202, 422)}
    reads = {(f"GET /api/v1/{what}", code) for what in ("edits/{edit_id}", "batches/{batch_id}") for code in (200, 404)}
    assert posts | reads <= seen, "all that matters was tried"


def test_invalid_requests_are_refused_as_described(operations: Any) -> None:
    for operation in operations:

        @fuzzed
        @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def check(case: Any) -> None:
            case.call_and_validate(headers=HEADERS, checks=[*CHECKS, checks.negative_data_rejection])

        check()
