"""Generate docs/api/errors.md from app/image_editor/codes.py; with --check, exit 1 if it differs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "app"))
from generated import update  # noqa: E402
from image_editor.codes import CODES, Code  # noqa: E402

PAGE = ROOT / "docs/api/errors.md"

PREAMBLE = """\
# Errors

Generated from `app/image_editor/codes.py` by `scripts/api_errors.py`.

An error is a document of type `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)):

```json
{
  "type": "urn:image-editor:problem:prompt_unknown",
  "title": "Prompt not understood",
  "status": 422,
  "code": "prompt_unknown",
  "detail": "not understood: “make it nice”. The prompt may use: …"
}
```

- **Decide by `code`.** It never changes its meaning. A later version may add codes, so treat an unknown code by its status.
- **Show `detail`.** It says what to change. It and `title` are for people, and their words may change.
- `invalid` and `items_invalid` also have `errors`: the fields or items to change.
- An edit that fails has the same codes in `error.code`. Its request was answered with 202 before.
- **Repeat a request** after 429, 500, 502, 503 and 504. After another status, first do what the code's remedy says. With an
  [`Idempotency-Key`](quickstart.md#repeat-a-request-safely), a repeated POST of an edit or a batch creates nothing
  twice. Other requests ignore the key.
- Every answer has an `X-Request-ID`. The operator finds the request by it.
"""


def link(code: str) -> str:
    """A link to the section of a code."""
    return f"[`{code}`](#{code})"


def overview() -> str:
    """The codes by status, and those of edits that failed."""
    rows = ["| status | codes |", "| --- | --- |"]
    for status in sorted({code.status for code in CODES.values() if code.status}):
        names = sorted(name for name, code in CODES.items() if code.status == status)
        rows.append(f"| {status} | {', '.join(map(link, names))} |")
    failed = sorted(name for name, code in CODES.items() if code.of_edit)
    rows.append(f"| `error.code` of an edit | {', '.join(map(link, failed))} |")
    return "\n".join(rows) + "\n"


def section(name: str, code: Code) -> str:
    """The section of a code: where it occurs, its cause, and its remedy."""
    where = [f"status {code.status}"] if code.status else []
    where += ["of an edit"] if code.of_edit else []
    return f"### {name}\n\n**{code.title}** ({' and '.join(where)})\n\n- Cause: {code.cause}\n- Remedy: {code.remedy}\n"


def generate() -> str:
    """The text of docs/api/errors.md."""
    sections = [section(name, code) for name, code in sorted(CODES.items())]
    return "\n".join([PREAMBLE, "## By status\n", overview(), "## Codes\n", *sections])


def main(arguments: Iterable[str]) -> int:
    """See the module's docstring."""
    return update(PAGE, generate(), "errors", __file__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
