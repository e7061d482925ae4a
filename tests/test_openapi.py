"""The API does not break its clients: docs/openapi.json against the document of the last release."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import figures
from openapi_changes import breaking

PATH = "docs/openapi.json"
EXAMPLE = {
    "paths": {
        "/edits": {
            "post": {
                "operationId": "create",
                "parameters": [{"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 100}}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/In"}}}},
                "responses": {"202": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Out"}}}}},
                "security": [{"Token": []}, {"Page": []}],
            }
        }
    },
    "webhooks": {
        "edit.finished": {
            "post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Out"}}}}}
        }
    },
    "components": {
        "schemas": {
            "In": {
                "type": "object",
                "required": ["prompt"],
                "properties": {
                    "prompt": {"type": "string", "maxLength": 9},
                    "format": {"enum": ["png", "jpeg"], "type": "string"},
                    "steps": {"items": {"$ref": "#/components/schemas/Step"}, "type": "array"},
                },
                "oneOf": [{"required": ["prompt"]}, {"required": ["prompt", "format"]}],
            },
            "Step": {
                "oneOf": [
                    {"properties": {"op": {"const": "blur"}, "sigma": {"type": "number", "maximum": 100}}},
                    {"properties": {"op": {"const": "invert"}}},
                ],
                "discriminator": {"propertyName": "op"},
            },
            "Out": {
                "type": "object",
                "required": ["id", "status"],
                "properties": {
                    "id": {"type": "string"},
                    "status": {"enum": ["queued"], "type": "string"},
                    "code": {"enum": ["a"], "type": "string"},
                    "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "next": {"anyOf": [{"$ref": "#/components/schemas/Out"}, {"type": "null"}]},
                },
            },
        }
    },
}


def git(*words: str) -> str:
    return subprocess.check_output(["git", *words], cwd=ROOT, text=True).strip()


def released() -> str:
    """The commit of the newest tag that has the document; without one, the commit that added the document."""
    tags = git("tag", "--merged", "HEAD", "--sort=-creatordate").splitlines()
    have = [tag for tag in tags if git("ls-tree", "--name-only", tag, PATH)]
    return have[0] if have else git("log", "--diff-filter=A", "--format=%H", "--", PATH).splitlines()[-1]


def test_nothing_breaks_clients_of_the_last_release():
    old = json.loads(git("show", f"{released()}:{PATH}"))
    found = breaking(old, json.loads((ROOT / PATH).read_text()))
    assert figures.record("openapi_breaking_changes", len(found), "changes", "<=0")["ok"], found


def changed(*steps: str | int, value: object = None, remove: bool = False) -> dict:
    """The example with another value at the place to which the steps lead."""
    document = copy.deepcopy(EXAMPLE)
    *way, last = steps
    place = document
    for step in way:
        place = place[step]
    if remove:
        del place[last]
    else:
        place[last] = value
    return document


OPERATION = ("paths", "/edits", "post")
SENT, GOT, STEP = (("components", "schemas", name) for name in ("In", "Out", "Step"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("paths", "/edits", remove=True), "POST /edits: is removed"),
        (changed(*OPERATION, "operationId", value="other"), "operationId is other now"),
        (changed(*OPERATION, "responses", value={}), "status 202 is removed"),
        (changed(*OPERATION, "security", value=[{"Token": []}]), "Page is refused"),
        (changed(*OPERATION, "parameters", value=[]), "parameter limit is removed"),
        (changed(*OPERATION, "requestBody", "required", value=True), "a body is required now"),
        (changed(*OPERATION, "requestBody", "content", value={}), "application/json is removed"),
        (changed(*SENT, "required", value=["prompt", "format"]), ".format: is required now"),
        (changed(*SENT, "properties", "format", remove=True), ".format: is removed"),
        (changed(*SENT, "properties", "format", "enum", value=["png"]), ".format: jpeg is refused"),
        (changed(*SENT, "properties", "prompt", "maxLength", value=8), ".prompt: maxLength is 8 now"),
        (changed(*SENT, "properties", "prompt", "minLength", value=1), ".prompt: minLength is 1 now"),
        (changed(*SENT, "properties", "prompt", "type", value="integer"), ".prompt: type string is refused"),
        (changed(*SENT, "additionalProperties", value=False), "unknown fields are refused"),
        (changed(*SENT, "oneOf", value=[{"required": ["prompt", "format"]}]), "body: prompt is not enough now"),
        (changed(*STEP, "oneOf", 0, "properties", "sigma", "maximum", value=99), "steps[].sigma: maximum is 99 now"),
        (changed(*STEP, "oneOf", 0, remove=True), "steps[]: type object blur is refused"),
        (changed(*GOT, "required", value=["id"]), ".status: may be missing now"),
        (changed(*GOT, "properties", "code", remove=True), ".code: is removed"),
        (changed(*GOT, "properties", "status", "enum", value=["queued", "new"]), ".status: new is new"),
        (changed(*GOT, "properties", "id", value={"anyOf": [{"type": "string"}, {"type": "null"}]}), ".id: type null is new"),
        (changed("webhooks", value={}), "edit.finished: is removed"),
    ],
)
def test_a_breaking_change_is_found(document, message):
    assert [found for found in breaking(EXAMPLE, document) if message in found]


@pytest.mark.parametrize(
    "document",
    [
        EXAMPLE,
        changed("paths", "/batches", value={"get": {"operationId": "list", "responses": {}}}),
        changed("webhooks", "batch.finished", value={"post": {}}),
        changed(*OPERATION, "responses", "200", value={}),
        changed(*OPERATION, "requestBody", "content", "multipart/form-data", value={"schema": {}}),
        changed(*SENT, "properties", "dry_run", value={"type": "boolean"}),
        changed(*SENT, "properties", "prompt", "maxLength", value=10),
        changed(*SENT, "properties", "format", "enum", value=["png", "jpeg", "avif"]),
        changed(*SENT, "required", value=[]),
        changed(*SENT, "oneOf", value=[{"required": ["prompt"]}, {"required": ["steps"]}]),
        changed(*SENT, "oneOf", remove=True),
        changed(*STEP, "oneOf", 1, value={"properties": {"op": {"const": "invert"}, "strength": {"type": "number"}}}),
        changed(*GOT, "properties", "usage", value={"type": "object"}),
        changed(*GOT, "properties", "code", "enum", value=["a", "b"]),
        changed(*GOT, "properties", "size", value={"type": "integer"}),
    ],
)
def test_an_addition_breaks_nothing(document):
    assert breaking(EXAMPLE, document) == []


def test_a_response_that_operations_share_is_followed():
    document = changed(*OPERATION, "responses", "202", value={"$ref": "#/components/responses/accepted"})
    document["components"]["responses"] = {"accepted": EXAMPLE["paths"]["/edits"]["post"]["responses"]["202"]}
    assert breaking(EXAMPLE, document) == []
    document["components"]["responses"] = {"accepted": {"content": {}}}
    assert breaking(EXAMPLE, document) == ["POST /edits 202: application/json is removed"]
