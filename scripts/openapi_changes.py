"""Print the breaking changes between two OpenAPI documents: openapi_changes.py OLD NEW. Exit 1 if there are any.

A change breaks clients if a request that was accepted is refused, or if an answer lacks what it had. docs/api/versioning.md
tells clients what may be added: so a new field of an answer, or a new error code, breaks nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
LOWER = ("minLength", "minimum", "minItems", "exclusiveMinimum")  # a request's limit that may only fall
UPPER = ("maxLength", "maximum", "maxItems", "exclusiveMaximum")  # a request's limit that may only rise
OPEN = ("code",)  # fields whose enumerations may grow in answers


class Comparison:
    """Compares schemas of two documents."""

    def __init__(self, old: Json, new: Json) -> None:
        self.documents = old, new
        self.seen: list[tuple[Json, Json, bool]] = []  # a schema may contain itself

    def schemas(self, old: Json, new: Json, sent: bool, where: str) -> Iterator[str]:
        """The breaking changes of a schema. ``sent``: a client sends it; otherwise a client gets it."""
        before, after = (self.kinds(schema, index) for index, schema in enumerate((old, new)))
        wider, narrower = (after, before) if sent else (before, after)
        if gone := [kind for kind in narrower if kind not in wider and not ("any" in wider or "any" in narrower)]:
            yield f"{where}: type {' or '.join(gone)} is {'refused' if sent else 'new'}"
        for kind in before.keys() & after.keys():
            yield from self.same_kind(before[kind], after[kind], sent, where)

    def followed(self, part: Json, document: int) -> Json:
        """What a part of a document refers to, or the part itself."""
        if "$ref" not in part:
            return part
        target: Any = self.documents[document]
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        return target

    def kinds(self, schema: Json, document: int) -> dict[str, Json]:
        """The alternatives of a schema, by their types. References are followed, and parts of allOf are merged.

        Alternatives beside properties only say which of them are needed (``needs``).
        """
        if "$ref" in schema:
            return self.kinds(self.followed(schema, document), document)
        alternatives = schema.get("anyOf") or schema.get("oneOf")
        if alternatives and "properties" not in schema:
            tag = schema.get("discriminator", {}).get("propertyName")
            return {
                " ".join([kind, *filter(None, [found.get("properties", {}).get(tag, {}).get("const")])]): found
                for one in alternatives
                for kind, found in self.kinds(one, document).items()
            }
        if parts := schema.get("allOf"):
            merged: Json = {}
            for part in parts:
                for found in self.kinds(part, document).values():
                    properties = merged.get("properties", {}) | found.get("properties", {})
                    merged = merged | found | {"properties": properties}
            return {merged.get("type", "any"): merged}
        types = schema.get("type") or ("object" if "properties" in schema else "any")
        return dict.fromkeys([types] if isinstance(types, str) else types, schema)

    def same_kind(self, old: Json, new: Json, sent: bool, where: str) -> Iterator[str]:
        """The breaking changes between two schemas of one type; none if they were compared before."""
        if any(old is before and new is after and sent is to for before, after, to in self.seen):
            return
        self.seen.append((old, new, sent))
        yield from values(old, new, sent, where)
        if sent:
            yield from limits(old, new, where)
            yield from needs(old, new, where)
        required = set(old.get("required", ())), set(new.get("required", ()))
        for name in sorted(required[1] - required[0] if sent else required[0] - required[1]):
            yield f"{where}.{name}: {'is required now' if sent else 'may be missing now'}"
        properties = old.get("properties", {}), new.get("properties", {})
        for name, schema in properties[0].items():
            if name in properties[1]:
                yield from self.schemas(schema, properties[1][name], sent, f"{where}.{name}")
            elif sent or name not in required[0]:  # a required one is reported above
                yield f"{where}.{name}: is removed"
        if "items" in old and "items" in new:
            yield from self.schemas(old["items"], new["items"], sent, f"{where}[]")


def values(old: Json, new: Json, sent: bool, where: str) -> Iterator[str]:
    """Breaking changes of enumerations and constants."""
    before, after = (schema.get("enum", [schema["const"]] if "const" in schema else None) for schema in (old, new))
    name = where.rpartition(".")[2]
    if sent and after is not None:
        refused = ["any other value"] if before is None else [value for value in before if value not in after]
        yield from (f"{where}: {value} is refused" for value in refused)
    if not sent and before is not None and name not in OPEN:
        added = ["any value"] if after is None else [value for value in after if value not in before]
        yield from (f"{where}: {value} is new" for value in added)


# By pattern: others that admit less.
NARROWER = {r"^(?:[^\u0000]*[^\s\u0000][^\u0000]*)?$": {r"^[^\u0000]*[^\s\u0000][^\u0000]*$"}}


def limits(old: Json, new: Json, where: str) -> Iterator[str]:
    """Limits of a request that are stricter than before."""
    for names, stricter in ((LOWER, float.__gt__), (UPPER, float.__lt__)):
        for name in names:
            if name in new and (name not in old or stricter(float(new[name]), float(old[name]))):
                yield f"{where}: {name} is {new[name]} now"
    if (pattern := new.get("pattern")) and old.get("pattern") not in {pattern, *NARROWER.get(pattern, ())}:
        yield f"{where}: pattern is {pattern} now"
    if new.get("additionalProperties") is False and old.get("additionalProperties") is not False:
        yield f"{where}: unknown fields are refused"


def needs(old: Json, new: Json, where: str) -> Iterator[str]:
    """Choices of fields that were enough in a request, and are not any more."""
    before, after = (
        [set(one.get("required", ())) for one in schema.get("anyOf") or schema.get("oneOf") or [{}]] for schema in (old, new)
    )
    for choice in before:
        if not any(needed <= choice for needed in after):
            yield f"{where}: {' and '.join(sorted(choice)) or 'no field'} is not enough now"


def contents(holder: Json) -> Json:
    """The schemas of a body, by content type."""
    return {kind: content.get("schema", {}) for kind, content in holder.get("content", {}).items()}


def operation_changes(compare: Comparison, old: Json, new: Json, where: str) -> Iterator[str]:
    """The breaking changes of an operation."""
    if old.get("operationId") != new.get("operationId"):
        yield f"{where}: operationId is {new.get('operationId')} now"
    before, after = ({(one["in"], one["name"]): one for one in each.get("parameters", ())} for each in (old, new))
    for key, parameter in before.items():
        if key not in after:
            yield f"{where}: parameter {key[1]} is removed"
        else:
            yield from compare.schemas(parameter["schema"], after[key]["schema"], True, f"{where} {key[1]}")
    for key, parameter in after.items():
        if parameter.get("required") and not before.get(key, {}).get("required"):
            yield f"{where}: parameter {key[1]} is required now"
    bodies = old.get("requestBody", {}), new.get("requestBody", {})
    if bodies[1].get("required") and not bodies[0].get("required"):
        yield f"{where}: a body is required now"
    yield from body_changes(compare, bodies[0], bodies[1], True, f"{where} body")
    for status, response in old["responses"].items():
        if status.startswith("2") and status not in new["responses"]:
            yield f"{where}: status {status} is removed"
        elif status in new["responses"]:
            bodies = compare.followed(response, 0), compare.followed(new["responses"][status], 1)
            yield from body_changes(compare, *bodies, False, f"{where} {status}")
    for scheme in old.get("security", ()):
        if scheme not in new.get("security", ()):
            yield f"{where}: {' and '.join(scheme)} is refused"


def body_changes(compare: Comparison, old: Json, new: Json, sent: bool, where: str) -> Iterator[str]:
    """The breaking changes of the body of a request or an answer."""
    before, after = contents(old), contents(new)
    for kind, schema in before.items():
        if kind not in after:
            yield f"{where}: {kind} is removed"
        else:
            yield from compare.schemas(schema, after[kind], sent, where)


def breaking(old: Json, new: Json) -> list[str]:
    """Every change that can break a client. Events are sent to clients, so they count as answers."""
    compare = Comparison(old, new)
    found: list[str] = []
    for path, methods in old["paths"].items():
        for method, operation in methods.items():
            where = f"{method.upper()} {path}"
            if changed := new["paths"].get(path, {}).get(method):
                found += operation_changes(compare, operation, changed, where)
            else:
                found.append(f"{where}: is removed")
    for event, methods in old.get("webhooks", {}).items():
        if event not in new.get("webhooks", {}):
            found.append(f"{event}: is removed")
        else:
            bodies = methods["post"]["requestBody"], new["webhooks"][event]["post"]["requestBody"]
            found += body_changes(compare, *bodies, False, event)
    return found


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    found = breaking(*(json.loads(Path(name).read_text()) for name in arguments))
    print("\n".join(found) or "no breaking change")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
