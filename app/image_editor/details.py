"""What errors say to a client, in the client's language.

Errors are raised, logged and stored in English: a worker does not know who will read what it stores, and the engines
import no Django. So a detail is translated when it is shown. It is found in TEMPLATES by its words, where ``{}`` stands
for any text. The translations are in locale/, like all others. A test compares TEMPLATES with what the code raises.
"""

import re

from django.utils.translation import get_language, gettext
from django.utils.translation import gettext_noop as _

TEMPLATES = (
    # requests
    _("change {}: {}"),
    _("these fields"),
    _("these"),
    _("nothing was accepted: change the items {}"),
    _("send application/json"),
    _("the body is not valid JSON"),
    _("an object of the body has more than {} members"),
    _("the body is empty: send JSON"),
    _("send one file, in the field 'image'"),
    _("send one file, in the field 'image', and nothing else"),
    _("send 1 to {} files, each in a field 'image'"),
    _("send multipart/form-data with a file in the field 'image'"),
    _("send either a file in the field 'image' or an 'image_url'"),
    _("send either 'image_url' or 'upload_id'"),
    _("upload the image again: there is no upload, or none any more, with the id {}"),
    _("send an id"),
    _("{}: send JSON, or leave the field out"),
    _("send an object in JSON"),
    _("send at most {} characters"),
    _("send an image of at most {} bytes"),
    _("send at most {} bytes"),
    _("an Idempotency-Key has 1 to 255 ASCII characters, none of them a space"),
    _("a field has characters that are not text: send plain text"),
    _("this Idempotency-Key belongs to a different request: send a new key"),
    _("cursor: use the address in 'next' as it is"),
    _("{}: no such parameter; there are {}"),
    _("{}: send a date and a time with an offset, such as 2026-11-27T00:00:00Z"),
    _("at most {} {} a {}: try again in {} s"),
    _("edits"),
    _("bytes of uploads"),
    _("dry runs"),
    _("tokens"),
    _("minute"),
    _("day"),
    _("send the header 'Authorization: Bearer <token>' with a token that is valid"),
    _("send the page's CSRF token in the header X-CSRFToken: reload the page and try again"),
    _("this token may only read: use a token with the scope 'write'"),
    _("this token manages no other tokens: use one that was made with 'manages_tokens': true"),
    _("at most {} tokens of a user: revoke one that is not used any more"),
    _("this token was replaced by one that is in use: use that one, or another token of yours"),
    _(
        "the token of this request or session expires at {}, and no token that it makes may last longer: ask for an "
        "earlier expiry, or use a token that lasts longer"
    ),
    _("nothing with this id exists, or it belongs to another user"),
    _("the edit has {} already"),
    _("the edit is {}: it has a result once its status is succeeded"),
    _("accepted"),
    _("queued"),
    _("processing"),
    _("cancelled"),
    _("succeeded"),
    _("failed"),
    _("images cannot be stored at the moment: try again in {} s"),
    _("the overlap of the last rotation ends at {}: try again then, or send 'overlap_seconds': 0"),
    _("the delivery has not ended: its next try is at {}"),
    _("the request could not be understood: check its URL, headers and body"),
    _("this is not allowed"),
    _("nothing exists at this address"),
    _("this address does not support the method: see the Allow header"),
    _("the request is too large: send at most {} bytes"),
    _("the form has too many files: send at most {}"),
    _("an internal error: repeat the request, and report its X-Request-ID if it fails again"),
    _("the platform cannot answer at the moment: try again in {} s"),
    _("the platform cannot answer at the moment: try again later"),
    # prompts
    _("say in 'prompt' or in 'operations' what to do with the image"),
    _("send either 'prompt' or 'operations', not both"),
    _("shorten the prompt to {} characters"),
    _("shorten the prompt and the URLs: together they exceed {}"),
    _("the prompt has characters that are not text: send plain text"),
    _("the prompt has control characters: send plain text"),
    _("the prompt asks for nothing; it may use: {}"),
    _("the prompt asks for {} edits; at most {}"),
    _("not understood: “{}”. The prompt may use: {}"),
    _("“{}” is not clear: write {}"),
    _("resize to 50%, or shrink by 50%"),
    _("resize to 800 for fewer pixels; the output takes a quality, and a number of bytes at most"),
    _("sharpen, or blur"),
    _("{} {} may be a factor or a percentage: write {} +20%"),
    _("“{}”: a watermark of the image cannot be removed"),
    _("“{}”: put the text of the watermark in quotation marks"),
    _("a watermark takes 1 to {} characters of text"),
    _("the watermark has no character that can be drawn"),
    _("the image is too small for a watermark: resize it up first"),
    _("operations.{}.{}: {}"),
    _("the text has every kind of quotation mark: leave one kind out"),
    _("give a width, a height or both"),
    _("{} {} should be {}, not {}"),
    _("greater than or equal to {}"),
    _("less than or equal to {}"),
    _("crop {}x{} reaches outside the image, which is {}x{} at that point: ask for a smaller rectangle"),
    _("crop {}x{} at {},{} reaches outside the image, which is {}x{} at that point: ask for a smaller rectangle"),
    _("blur {}"),
    _("sharpen {}"),
    _("blur"),
    _("sharpen"),
    _("brightness"),
    _("contrast"),
    _("saturation"),
    _("change of colours"),
    _("change of brightness or contrast"),
    _("crop"),
    _("fit"),
    _("flip"),
    _("resize"),
    _("rotate"),
    _("scale"),
    _("watermark"),
    # images
    _("the file is not a JPEG, PNG or WebP image: send one of these"),
    _("the file is not a JPEG, PNG or WebP image"),
    _("the image is animated: send one picture, such as its first frame"),
    _("the {} header is damaged: send the original file"),
    _("the image is {}x{}, {} megapixels: send one of at most {} megapixels"),
    _("the image is {}x{} pixels: send one of at least {}x{}"),
    _("the file has more than {} parts: save the image again, without animation"),
    _("the end of the {} file is missing: send the whole file"),
    _("the image cannot be decoded: {}"),
    _("{}x{} is too large: at most {} megapixels and {} a side, before and after each edit"),
    _("an edit from {} of {} megapixels to {} of {} needs {} MB of memory, at most {}: send a smaller image, or {}"),
    _("use jpeg or png for webp"),
    _("send it without interlacing"),
    _("remove its colour profile"),
    _("ask for another format than avif"),
    _("this platform cannot save AVIF: ask for jpeg, png or webp"),
    _("the result has {} bytes as {}, at most {} are wanted: resize the image, or ask for {}"),
    _("the result has {} bytes as {} of quality {}, at most {} are wanted: resize the image, or ask for {}"),
    _("webp or jpeg"),
    _("more bytes"),
    _(
        "the edit would take about {} s, at most {}; the longest operation is “{}”: ask for less, or send a smaller "
        "image"
    ),
    # the work
    _("the edit took longer than {} s: ask for less, or send a smaller image"),
    _(
        "the process that edited this image was killed {} times, most likely because it used too much memory: "
        "send a smaller image, or ask for less"
    ),
    _("the uploaded image is no longer stored: send it again"),
    _("every attempt ended without a result: the worker was lost, or failed, while it edited this image"),
    _("the platform could not do the edit in time, because its media store or its engine was down: submit it again"),
    _("the image did not arrive from the provider, which may have billed it: submit a new edit"),
    _("change the prompt or the image, the provider refuses it: {}"),
    _("the provider refuses the prompt or the image: {}"),
    _("the provider's answer is not an image that we accept ({}): submit a new edit"),
    _("it is not base64"),
    _("it holds neither b64_json nor url"),
    _("it is larger than {} bytes"),
    # addresses
    _("image_url: {}"),
    _("callback_url: {}"),
    _("url: {}"),
    _("the host of the URL has no public address"),
    _("the URL is longer than {} characters"),
    _("the URL has characters that do not belong in one"),
    _("the URL is not valid: give http://host/path or https://host/path"),
    _("the URL must begin with http:// or https:// and a host"),
    _("the URL must not hold a user name or password"),
    _("port {} is not allowed: use 80 or 443"),
    _("the name of the host was not resolved within {} s"),
    _("the name of the host could not be resolved"),
    _("the server did not answer in time"),
    _("the server could not be read: {}"),
    _("the server answered {}"),
    _("it took longer than {} s"),
    _("more than {} redirects"),
    _("the file is larger than {} bytes"),
    _("the receiver answered {}"),
    _("not called: earlier calls timed out"),
    # pydantic
    _("Field required"),
    _("Extra inputs are not permitted"),
    _("Input should be a valid string"),
    _("Input should be a valid number"),
    _("Input should be a valid integer"),
    _("Input should be a valid integer, unable to parse string as an integer"),
    _("Input should be a valid list"),
    _("Input should be a valid dictionary or object to extract fields from"),
    _("Input should be a valid dictionary or instance of {}"),
    _("Input should be greater than or equal to {}"),
    _("Input should be less than or equal to {}"),
    _("Input should be {}"),
    _("Value error, {}"),
    _("Input tag '{}' found using {} does not match any of the expected tags: {}"),
    _("Unable to extract tag using discriminator {}"),
    _("String should have at least {} character"),
    _("String should have at most {} characters"),
    _("List should have at least {} item after validation, not {}"),
    _("List should have at most {} items after validation, not {}"),
)

# Gaps that hold the words of a client or of a provider, names of fields, or what is translated already. They stay as
# they are, even if they are words of TEMPLATES.
KEPT = {
    "change {}: {}": {1},
    "not understood: “{}”. The prompt may use: {}": {0},
    "“{}” is not clear: write {}": {0},
    "{} {} may be a factor or a percentage: write {} +20%": {0, 1, 2},
    "“{}”: a watermark of the image cannot be removed": {0},
    "“{}”: put the text of the watermark in quotation marks": {0},
    "{}: no such parameter; there are {}": {0, 1},
    "operations.{}.{}: {}": {0, 1},
    "change the prompt or the image, the provider refuses it: {}": {0},
    "the provider refuses the prompt or the image: {}": {0},
    "Input tag '{}' found using {} does not match any of the expected tags: {}": {0, 1, 2},
}


def _pattern(template: str) -> re.Pattern[str]:
    """Matches the texts of a template, in linear time: a gap ends where the next words of the template begin."""
    first, *others = map(re.escape, template.split("{}"))
    *middle, last = others or [""]
    gaps = "".join(f"(?>(.*?){words})" for words in middle) + (f"(.*){last}" if others else "")
    return re.compile(first + gaps, re.DOTALL)


# The template with the most words comes first: "the server answered {}" matches before "url: {}".
_PATTERNS = [
    (_pattern(template), template)
    for template in sorted(TEMPLATES, key=lambda template: len(template.replace("{}", "")), reverse=True)
]


# A client may send a text that looks like templates in each other. Ours are not longer, and not deeper.
CHARS_MAX = 10_000
DEPTH_MAX = 5


def translated(detail: str) -> str:
    """The detail in the language of the request. Outside of a request it stays English, as does an unknown text."""
    if (get_language() or "en").startswith("en") or len(detail) > CHARS_MAX:
        return detail
    return _translated(detail, DEPTH_MAX)


def _translated(detail: str, depth: int) -> str:
    for pattern, template in _PATTERNS if depth else ():
        if found := pattern.fullmatch(detail):
            kept = KEPT.get(template, ())
            texts = (text if gap in kept else _translated(text, depth - 1) for gap, text in enumerate(found.groups()))
            return gettext(template).format(*texts)
    return detail
