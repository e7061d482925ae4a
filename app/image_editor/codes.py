"""Every error code that a client can see: its HTTP status, its title, its cause, and what the client does about it.

This module is the only source. The API takes titles and its OpenAPI document from it, and scripts/api_errors.py writes
docs/api/errors.md. tests/test_api_errors.py compares it with the codes that application, edge and media hosts use.
It imports neither Django nor Celery.
"""

from dataclasses import dataclass
from http.client import responses


@dataclass(frozen=True, slots=True)
class Code:
    """An error code. ``status`` is that of the answer; None: no request is refused with it, but an edit can fail."""

    status: int | None
    title: str
    cause: str
    remedy: str
    of_edit: bool = False  # `error.code` of an edit that failed can have it


CODES: dict[str, Code] = {
    "bad_request": Code(
        400,
        "Request not understood",
        "The URL, a header or the body has a form that HTTP does not allow, or the Host is unknown.",
        "Check the URL and how the request is encoded.",
    ),
    "not_json": Code(
        400,
        "Body is not JSON",
        "The body is empty, is not valid JSON, or has an object with more than 20 members.",
        "Send one JSON document in UTF-8.",
    ),
    "token_missing": Code(
        401,
        "Token missing or not valid",
        "The request has no `Authorization` header, or its token is unknown, revoked or expired.",
        "Send `Authorization: Bearer <token>`. Ask the operator for a new token if yours is refused.",
    ),
    "csrf_failed": Code(
        403,
        "CSRF token missing",
        "A request with the page's session cookie has no valid `X-CSRFToken` header.",
        "Programs should send a token instead of the cookie. On the page, reload and try again.",
    ),
    "forbidden": Code(
        403,
        "Not allowed",
        "The user may not do this.",
        "Use an account that may, or ask the operator.",
    ),
    "scope_read": Code(
        403,
        "Token may only read",
        "The token has the scope `read`. It may `GET`, but not the webhook secret.",
        "Use a token with the scope `write`.",
    ),
    "manages_no_tokens": Code(
        403,
        "Token manages no other tokens",
        "The token was made with `manages_tokens: false`. It may replace and revoke itself alone.",
        "Use a token that manages tokens.",
    ),
    "expires_too_late": Code(
        403,
        "Token would outlive its maker",
        "The new token would expire after the token of the request, or after the one with which its session began.",
        "Ask for an earlier expiry, or use a token that lasts longer.",
    ),
    "signature_invalid": Code(
        403,
        "Signature of the URL is wrong",
        "A URL of an image was changed after the API signed it. The media host answers this.",
        "Get the edit again and use its `result_url` unchanged.",
    ),
    "not_found": Code(
        404,
        "Not found",
        "Nothing has this URL or id, it belongs to another user, or its retention has ended.",
        "Check the id and whose token you send.",
    ),
    "upload_unknown": Code(
        404,
        "Upload not found",
        "No upload of yours has this `upload_id`, or it was removed.",
        "Upload the image again, and use the new id.",
    ),
    "method_not_allowed": Code(
        405,
        "Method not allowed",
        "The URL exists, but not with this method.",
        "Use a method that the `Allow` header names.",
    ),
    "already_ended": Code(
        409,
        "Edit has ended",
        "An edit that succeeded or failed cannot be cancelled.",
        "Nothing: read the edit to see its result.",
    ),
    "not_succeeded": Code(
        409,
        "Edit has no result",
        "The edit has not ended, or it failed or was cancelled. `detail` has its status.",
        "Wait until `status` is `succeeded`. If the edit failed, read its `error`.",
    ),
    "rotation_under_way": Code(
        409,
        "Rotation under way",
        "The overlap of the last rotation of the webhook secret has not ended.",
        'Wait until `former_expires_at`, or send `{"overlap_seconds": 0}`, which ends the former secret at once.',
    ),
    "delivery_pending": Code(
        409,
        "Delivery is pending",
        "A delivery that has not ended cannot be started again.",
        "Wait for its next try, at `next_try_at`.",
    ),
    "already_replaced": Code(
        409,
        "Token was replaced",
        "A token that was replaced asks for another one, although its replacement is in use.",
        "Use the replacement. If you do not have it, revoke both with another token: somebody else uses it.",
    ),
    "too_many_tokens": Code(
        409,
        "Too many tokens",
        "The user has as many tokens as one user may have.",
        "Revoke a token that is not used any more ([limits](limits.md)).",
    ),
    "expired": Code(
        410,
        "URL has expired",
        "The signed URL of an image is too old. The media host answers this.",
        "Get the edit again and use its new `result_url`.",
    ),
    "too_large": Code(
        413,
        "Too large",
        "The request or the image has too many bytes. An edit fails with this code if it used too much memory twice.",
        "Send a smaller image ([limits](limits.md)), or ask for less.",
        of_edit=True,
    ),
    "unsupported_media_type": Code(
        415,
        "Content type not supported",
        "The body is neither `application/json` nor, where an image can be sent, `multipart/form-data`.",
        "Set the `Content-Type` header.",
    ),
    "image_unsupported": Code(
        415,
        "Image format not supported",
        "The file is not a JPEG, PNG or WebP image, or it is an animation. "
        "Its name and content type do not matter, its bytes do.",
        "Convert the image before you send it. Of an animation, send one frame.",
        of_edit=True,
    ),
    "invalid": Code(
        422,
        "Fields are not valid",
        "A field, parameter or header is missing, unknown, or has the wrong type. `errors` names each of them.",
        "Change the fields that `errors` names.",
    ),
    "items_invalid": Code(
        422,
        "Items are not valid",
        "At least one item of the batch cannot be accepted, so none was. `errors` has the index and code of each.",
        "Change or remove these items and send the batch again.",
    ),
    "idempotency_key_reused": Code(
        422,
        "Idempotency-Key belongs to another request",
        "The key was used before, with other fields or another image.",
        "Use a new key for each new request, and the same key only to repeat a request.",
    ),
    "prompt_missing": Code(
        422,
        "Prompt is missing",
        "There are no `operations`, and `prompt` is missing or empty.",
        "Say what to do with the image.",
    ),
    "prompt_too_long": Code(
        422,
        "Prompt is too long",
        "The prompt has too many characters, or asks for too many operations.",
        "Shorten it ([limits](limits.md)), or use several edits.",
        of_edit=True,
    ),
    "prompt_unknown": Code(
        422,
        "Prompt not understood",
        "A part of the prompt is no operation that the engine knows. `detail` quotes it.",
        "Use the words in [prompts](../app/prompts.md).",
        of_edit=True,
    ),
    "prompt_out_of_range": Code(
        422,
        "Number out of range",
        "An operation has a number that it does not take, or a watermark without characters that can be drawn.",
        "Use a number in the range that `detail` names.",
        of_edit=True,
    ),
    "operation_invalid": Code(
        422,
        "Operation cannot be done",
        "A watermark has every kind of quotation mark, so no prompt can carry it. `detail` names the operation.",
        "Leave one kind of quotation mark out.",
        of_edit=True,
    ),
    "format_unavailable": Code(
        422,
        "Format not available",
        "The platform cannot save images in this format.",
        "Ask for `jpeg`, `png` or `webp`.",
        of_edit=True,
    ),
    "image_url_refused": Code(
        422,
        "Image URL is not opened",
        "`image_url`, or a redirect from it, does not lead to a public address on port 80 or 443.",
        "Use a public URL, or upload the image.",
        of_edit=True,
    ),
    "callback_url_refused": Code(
        422,
        "Callback URL is not opened",
        "`callback_url` does not lead to a public address on port 80 or 443.",
        "Use a public URL.",
    ),
    "url_refused": Code(
        422,
        "URL is not opened",
        "The `url` of a test event does not lead to a public address on port 80 or 443.",
        "Use a public URL.",
    ),
    "message_too_large": Code(
        422,
        "Fields are too large together",
        "Prompt and URLs together do not fit into one message for a worker.",
        "Shorten the prompt or the URLs.",
    ),
    "image_corrupt": Code(
        422,
        "Image is damaged",
        "The image cannot be decoded.",
        "Send the original file.",
        of_edit=True,
    ),
    "image_truncated": Code(
        422,
        "Image is incomplete",
        "The end of the file is missing, for example because its upload to you was cut off.",
        "Send the whole file.",
        of_edit=True,
    ),
    "image_too_small": Code(
        422,
        "Image is too small",
        "A side of the image has fewer pixels than the platform accepts.",
        "Send a larger image ([limits](limits.md)).",
        of_edit=True,
    ),
    "image_too_large": Code(
        422,
        "Image has too many pixels",
        "The image, or what an operation makes of it, has too many pixels or needs too much memory.",
        "Send a smaller image, or ask for a smaller result ([limits](limits.md)).",
        of_edit=True,
    ),
    "crop_outside": Code(
        None,
        "Crop reaches outside the image",
        "The rectangle of a crop does not lie within the image, as it is after the operations before.",
        "Ask for a smaller rectangle.",
        of_edit=True,
    ),
    "watermark_too_large": Code(
        None,
        "No room for the watermark",
        "The image is too small for a watermark.",
        "Resize the image up before the watermark.",
        of_edit=True,
    ),
    "output_too_large": Code(
        None,
        "Result is too large",
        "The result has more bytes than `output.max_bytes`, even at the lowest quality. A PNG has no quality that "
        "could be lowered.",
        "Allow more bytes, ask for fewer pixels, or for `webp` or `avif`.",
        of_edit=True,
    ),
    "too_slow": Code(
        422,
        "Edit would take too long",
        "The operations need more time than an edit gets. `detail` names the longest.",
        "Ask for less, or send a smaller image.",
        of_edit=True,
    ),
    "image_url_failed": Code(
        None,
        "Image could not be downloaded",
        "The server of `image_url` cannot be reached, answers an error, is too slow, or sends too many bytes.",
        "Check that the URL answers 200 to everybody, then submit a new edit.",
        of_edit=True,
    ),
    "upload_gone": Code(
        None,
        "Upload is no longer stored",
        "The uploaded image was removed before the edit could use it.",
        "Send the image again.",
        of_edit=True,
    ),
    "content_refused": Code(
        None,
        "Content refused",
        "The provider of the engine does not edit this image, or not as the prompt says.",
        "Change the prompt or the image.",
        of_edit=True,
    ),
    "engine_refused": Code(
        None,
        "Engine refused",
        "The provider of the engine cannot use the prompt or the image. `detail` has its reason.",
        "Change the prompt or the image.",
        of_edit=True,
    ),
    "engine_answer_lost": Code(
        None,
        "Result was lost",
        "The provider may have made the image, but it did not arrive.",
        "Submit a new edit. The provider may bill both.",
        of_edit=True,
    ),
    "engine_answer_unusable": Code(
        None,
        "Result cannot be used",
        "The provider answered with something that is no image that the platform accepts.",
        "Submit a new edit. The provider bills both.",
        of_edit=True,
    ),
    "gave_up": Code(
        None,
        "Platform gave up",
        "Every attempt was lost, or the platform could not do the edit within a day.",
        "Submit the edit again. Tell the operator if it happens twice.",
        of_edit=True,
    ),
    "too_many": Code(
        429,
        "Rate or quota reached",
        "The user has submitted as many edits as a minute or a day allows, or as many dry runs or new tokens as a "
        "minute allows.",
        "Wait for the seconds in `Retry-After`, then repeat the request ([limits](limits.md)).",
    ),
    "rate_limited": Code(
        429,
        "Too many requests from your address",
        "Your IP address sends too many requests a second, or too many uploads at once. The edge answers this.",
        "Wait for the seconds in `Retry-After`, and send fewer requests at once ([limits](limits.md)).",
    ),
    "internal_server_error": Code(
        500,
        "Internal error",
        "The application has a defect.",
        "Repeat the request once. If it fails again, report its `X-Request-ID`.",
    ),
    "bad_gateway": Code(
        502,
        "No application host answered",
        "The application is starting or is down. The edge answers this.",
        "Repeat a GET, or a POST with an `Idempotency-Key`, after the seconds in `Retry-After`.",
    ),
    "service_unavailable": Code(
        503,
        "Not available at the moment",
        "The database does not answer.",
        "Repeat the request after the seconds in `Retry-After`.",
    ),
    "storage_unavailable": Code(
        503,
        "Images cannot be stored at the moment",
        "The media store does not answer.",
        "Repeat the request after the seconds in `Retry-After`.",
    ),
    "unavailable": Code(
        503,
        "Overloaded or under maintenance",
        "No application host takes requests. The edge answers this.",
        "Repeat the request after the seconds in `Retry-After`.",
    ),
    "timeout": Code(
        504,
        "Application took too long",
        "The application did not answer in time. The edge answers this.",
        "Repeat a GET, or a POST with an `Idempotency-Key`, after the seconds in `Retry-After`.",
    ),
}

# The code of an answer that a part of Django gives, by its status.
OF_STATUS: dict[int, str] = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    500: "internal_server_error",
    503: "service_unavailable",
}


def title(code: str, status: int) -> str:
    """The title of a problem document."""
    known = CODES.get(code)
    return known.title if known else responses.get(status, "Error")


def of_status(status: int) -> str:
    """The code of an answer of this status that has none of its own."""
    return OF_STATUS.get(status) or responses.get(status, "error").lower().replace(" ", "_")
