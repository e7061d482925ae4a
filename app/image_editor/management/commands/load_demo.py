"""``manage.py load_demo NAME``: submit a few edits, to see something in a new installation."""

import uuid
from typing import Any

import pyvips
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from image_editor import storage
from image_editor.pipeline import transitions
from image_editor.pipeline.message import EditMessage
from image_editor.storage import names

PROMPTS = ("greyscale, rotate 90", "黑白，旋转90度", "sepia, resize to 400x300", "模糊3，水印“演示”", "convert to webp")


class Command(BaseCommand):
    requires_system_checks = []  # ensure_user runs them in each deployment
    help = "Submit a few edits of a drawn image as the user NAME, who must exist."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")

    def handle(self, *, name: str, **_: Any) -> None:
        user = User.objects.filter(username=name).first()
        if user is None:
            raise CommandError(f"there is no user {name}: create one with ensure_user")
        image = _drawing()
        for prompt in PROMPTS:
            edit_id, now = str(uuid.uuid4()), timezone.now()
            upload = names.upload(edit_id, now, "jpg")
            storage.put(upload, image, "image/jpeg")
            image_url, accepted_at = f"media:{upload}", now.isoformat()
            transitions.accept(EditMessage(edit_id, image_url, prompt, "", user.pk, name, accepted_at, fresh=True))
            self.stdout.write(f"{edit_id} {prompt}")


def _drawing() -> bytes:
    """A JPEG of coloured rings, 800 x 600 pixels."""
    at = pyvips.Image.xyz(800, 600) - [400, 300]
    distance = (at[0] ** 2 + at[1] ** 2) ** 0.5
    bands = [(distance * factor).sin() * 100 + 128 for factor in (2, 3, 5)]
    image = bands[0].bandjoin(bands[1:]).cast("uchar").copy(interpretation="srgb")
    return image.write_to_buffer(".jpg", Q=90)
