"""The OpenAI-compatible image-edit API: ``POST {base}/images/edits`` with image, prompt and model.

Every call costs money. So an image is decoded before it is sent: a damaged one is refused without a call. A try is
repeated only if the answer says that nothing was done. A try that may have been billed, but whose image did not arrive,
ends the edit, unless the operator says that the provider honours ``Idempotency-Key``.
Wire format: https://platform.openai.com/docs/api-reference/images/createEdit
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import requests
from urllib3.exceptions import NewConnectionError
from urllib3.filepost import encode_multipart_formdata

from image_editor.imaging import inspection, operations, prompts
from image_editor.imaging.engines import (
    Described,
    Edited,
    EditError,
    EngineUnavailable,
    Plan,
    Progress,
    local,
    soft_time_limit,
)
from image_editor.imaging.engines.local import Local
from image_editor.imaging.operations import Output

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.05
TRIES_MAX = 5
REFUSED = (400, 413, 415, 422)  # statuses that the client's prompt or image can cause
PERHAPS_DONE = (408, 504, 524)  # a proxy stopped waiting; the provider may have gone on
ERROR_MAX_BYTES = 64 * 1024
# The provider's codes, in 4xx answers, for problems that only the operator can solve.
OPERATORS = ("billing_hard_limit_reached", "insufficient_quota", "invalid_api_key", "model_not_found")
FORBIDDEN = ("content_policy_violation", "moderation_blocked")


class _Again(Exception):
    """Nothing was done and nothing was billed: ask again, after ``wait`` seconds if the provider named a time."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class _Lost(_Again):
    """The provider may have made and billed an image that did not reach us."""


@dataclass(frozen=True, slots=True)
class OpenAI:
    """The engine. ``seconds`` bounds an edit: all tries, the waits between them, and fetching the image."""

    quick: ClassVar[bool] = False
    url: str
    model: str
    api_key: str = field(repr=False)
    seconds: float
    idempotent: bool
    bytes_max: int
    pixels_max: int
    ca_bundle: str
    local: Local  # for typed operations

    def check(self, prompt: str, source: bytes | None = None, output: Output | None = None) -> None:
        """Accept any text that is no typed operation: the provider decides what it means."""
        if _is_exact(prompt):
            self.local.check(prompt, source, output)
        elif output and output.format:
            self.local.check(f"convert to {output.format}")

    def plan(self, prompt: str, output: Output | None = None, image: Described | None = None) -> Plan:
        if _is_exact(prompt):
            return self.local.plan(prompt, output, image)
        self.check(prompt, None, output)
        return Plan(format=output.format if output else None)

    def edit(self, source: bytes, prompt: str, progress: Progress, key: str, output: Output | None = None) -> Edited:
        if _is_exact(prompt):
            return self.local.edit(source, prompt, progress, key, output)
        end = time.monotonic() + self.seconds
        # Without metadata: the provider must not learn where a photo was taken.
        image = self._clean(source)
        progress(10)
        body, content_type = self._form(image, prompt, key)
        headers = {
            "Authorization": f"Bearer {self.api_key}",
            "Content-Type": content_type,
            "Idempotency-Key": f"image-editor-{key}",
        }
        answer = self._ask(body, headers, end)
        progress(80)
        try:
            inspection.check(answer, self.pixels_max, side_min=1)
            edited = self._clean(answer, output)
        except (inspection.Unacceptable, EditError) as error:
            if error.code == "output_too_large":  # the client asked for too little
                raise
            raise _unusable(str(error)) from error
        progress(100)
        return edited

    def _clean(self, image: bytes, output: Output | None = None) -> Edited:
        """The image decoded strictly, upright, in sRGB, without metadata, in its own format or as ``output`` says.

        Raises EditError.
        """
        prompt = f"convert to {inspection.kind(image) or 'png'}"
        return Local(self.pixels_max).edit(image, prompt, lambda _: None, "", output)

    def _form(self, source: Edited, prompt: str, key: str) -> tuple[bytes, str]:
        """The body and its content type. The same edit has the same bytes, by which providers recognise a repetition.

        So the boundary is not random. It is derived from a secret, so that a prompt cannot contain it on purpose.
        """
        boundary = hmac.new(self.api_key.encode(), key.encode(), hashlib.sha256).hexdigest()
        image = (f"image.{source.extension}", source.data, source.content_type)
        return encode_multipart_formdata({"model": self.model, "prompt": prompt, "image": image}, boundary)

    def _ask(self, body: bytes, headers: dict[str, str], end: float) -> bytes:
        """The image of the first try that succeeds. Raises EditError or EngineUnavailable."""
        for tries in range(1, TRIES_MAX + 1):
            try:
                return self._try(body, headers, end)
            except _Again as error:
                if isinstance(error, _Lost) and not self.idempotent:
                    detail = "the image did not arrive from the provider, which may have billed it: submit a new edit"
                    log.warning("provider's answer lost", extra={"error": str(error), "tries": tries})
                    raise EditError("engine_answer_lost", detail) from error
                wait = min(8, 0.5 * 2**tries) * random.uniform(0.5, 1) if error.wait is None else error.wait  # noqa: S311
                log.warning("provider not ready", extra={"error": str(error), "tries": tries, "wait": round(wait, 1)})
            # A try that cannot finish in time would be billed without a result.
            if end - time.monotonic() - wait < self.seconds / 2:
                break
            time.sleep(wait)
        raise EngineUnavailable(f"the provider was asked {tries} times")

    def _try(self, body: bytes, headers: dict[str, str], end: float) -> bytes:
        # Imported here: the client reads the application's settings, and an engine can be loaded without them.
        from image_editor import http_client

        try:
            with http_client.deadline(_left(end)):
                status, answered, answer = self._post(body, headers, end)
        except http_client.TooSlow as error:
            raise _Lost(f"no answer in {self.seconds:g} s") from error
        if status != 200:
            raise self._refusal(status, answered, answer)
        match _first(answer):
            case {"b64_json": str(text)}:
                try:
                    return base64.b64decode(text, validate=True)
                except (binascii.Error, ValueError) as error:
                    raise _unusable("it is not base64") from error
            case {"url": str(url)}:
                try:
                    return http_client.get(url, self.bytes_max, _left(end))
                except (http_client.Refused, http_client.TooLarge) as error:
                    raise _unusable(str(error)) from error
                except http_client.FetchFailed as error:
                    raise _Lost(f"its image: {error}") from error
        raise _unusable("it holds neither b64_json nor url")

    def _post(self, body: bytes, headers: dict[str, str], end: float) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one answer. Raises _Again, _Lost or EditError."""
        from image_editor import http_client

        # A session for each try. On a kept connection, nobody could tell whether the provider closed it before or after
        # it did the work.
        with http_client.Session() as session:
            session.trust_env = False  # a .netrc would replace our Authorization
            try:
                with session.post(
                    self.url,
                    data=body,
                    headers=headers,
                    timeout=(CONNECT_SECONDS, _left(end)),
                    allow_redirects=False,
                    stream=True,
                    verify=self.ca_bundle if os.path.exists(self.ca_bundle) else True,
                ) as response:
                    # Base64 takes four bytes for three.
                    most = self.bytes_max * 4 // 3 + ERROR_MAX_BYTES if response.status_code == 200 else ERROR_MAX_BYTES
                    answer = bytearray()
                    for chunk in response.iter_content(65536):
                        answer += chunk
                        if len(answer) > most:
                            if response.status_code == 200:
                                raise _unusable(f"it is larger than {self.bytes_max} bytes")
                            break
                    return response.status_code, response.headers, bytes(answer)
            except requests.RequestException as error:
                raise (_Again if _unsent(error) else _Lost)(type(error).__name__) from error

    def _refusal(self, status: int, headers: Mapping[str, str], answer: bytes) -> Exception:
        """The exception for an answer other than 200: ask again, lost, for the client, or for the operator."""
        said = _json(answer).get("error")
        said = said if isinstance(said, dict) else {}
        code = str(said.get("code") or said.get("type") or "")
        message = "".join(char if char.isprintable() else " " for char in str(said.get("message") or "no reason given"))
        message = message.replace(self.api_key, "…")[:200]
        if code in FORBIDDEN:
            return EditError("content_refused", f"change the prompt or the image, the provider refuses it: {message}")
        if code not in OPERATORS and said.get("param") != "model":
            if status in PERHAPS_DONE:
                return _Lost(f"status {status}")
            if status in (409, 429) or status >= 500:
                return _Again(f"status {status}", _retry_after(headers.get("Retry-After", "")))
            if status in REFUSED:
                return EditError("engine_refused", f"the provider refuses the prompt or the image: {message}")
        # A wrong key, base URL or model. The edit succeeds once the operator has corrected the settings.
        log.error("provider refuses us: see IMAGE_EDITOR_OPENAI_…", extra={"status": status, "error": code[:100]})
        return EngineUnavailable(f"the provider answered {status} {code[:100]}")


def _is_exact(prompt: str) -> bool:
    """Whether the prompt has the very words of typed operations.

    The embedded engine carries these out to the pixel, at no cost. A provider would answer `resize to 800x600` with an
    image of a size of its own.
    """
    try:
        return operations.as_prompt(prompts.parse(prompt)) == prompt
    except EditError:
        return False


def _left(end: float) -> float:
    """Seconds until ``end``; never 0, because 0 switches a timer off."""
    return max(end - time.monotonic(), 0.01)


def _unsent(error: requests.RequestException) -> bool:
    """True if there was no connection, so that the provider does not know the request."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return (
        isinstance(error, requests.ConnectTimeout)
        or isinstance(reason, NewConnectionError)
        or "CERTIFICATE_VERIFY_FAILED" in str(reason)
    )


def _json(answer: bytes) -> dict[str, Any]:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _first(answer: bytes) -> object:
    match _json(answer):
        case {"data": [first, *_]}:
            return first
    return None


def _unusable(why: str) -> EditError:
    """The error for an answer that was billed and is useless. Another try costs again, so the client decides."""
    return EditError(
        "engine_answer_unusable", f"the provider's answer is not an image that we accept ({why}): submit a new edit"
    )


def _retry_after(value: str) -> float | None:
    """The seconds of a Retry-After header, which is a number or a date. None if it is neither."""
    if value.strip().isdecimal():  # not isdigit: it is true for "²", which float refuses
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return max((moment.astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def create(env: Mapping[str, str]) -> OpenAI:
    """The engine for an environment. Raises ValueError, which names the wrong variable and never its value."""
    api_key = env.get("IMAGE_EDITOR_OPENAI_API_KEY") or ""
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("IMAGE_EDITOR_OPENAI_API_KEY must be set, to printable ASCII without spaces")
    base = (env.get("IMAGE_EDITOR_OPENAI_BASE_URL") or "https://api.openai.com/v1").rstrip("/")
    if not base.startswith(("https://", "http://")):
        raise ValueError("IMAGE_EDITOR_OPENAI_BASE_URL must begin with https:// or http://")
    # The rest of the soft limit is for fetching the source and storing the result.
    seconds = min(float(env.get("IMAGE_EDITOR_OPENAI_TIMEOUT") or 60), soft_time_limit(env) * 0.6)
    return OpenAI(
        url=f"{base}/images/edits",
        model=env.get("IMAGE_EDITOR_OPENAI_MODEL") or "gpt-image-1",
        api_key=api_key,
        seconds=seconds,
        idempotent=(env.get("IMAGE_EDITOR_OPENAI_IDEMPOTENT") or "false").lower() in ("true", "1", "yes", "on"),
        bytes_max=int(env.get("IMAGE_EDITOR_UPLOAD_MAX_BYTES") or 20 * 1024 * 1024),
        pixels_max=int(env.get("IMAGE_EDITOR_PIXELS_MAX") or 50_000_000),
        ca_bundle=env.get("IMAGE_EDITOR_CA_BUNDLE") or "/etc/ssl/certs/ca-certificates.crt",
        local=local.create(env),
    )
