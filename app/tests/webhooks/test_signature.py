"""Signatures follow Standard Webhooks, each user has a secret, and a former secret is valid during the overlap."""

import base64
import json
import subprocess
import time
from datetime import timedelta
from typing import Any

import pytest
from conftest import make_user
from django.test import Client
from django.utils import timezone
from helpers import post, problem
from standardwebhooks.webhooks import Webhook

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "/api/v1/webhooks/secret"
TEST = "/api/v1/webhooks/test"


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether a delivery is authentic, as the specification says, computed by OpenSSL instead of our library."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert 24 <= len(key) <= 64
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 300
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"]
    digest = subprocess.run(command, input=signed, capture_output=True, check=True).stdout
    return f"v1,{base64.b64encode(digest).decode()}" in headers["webhook-signature"].split(" ")


@pytest.fixture
def deliver(api: Any, files: Any) -> Any:
    """Returns a function: the headers and the body of a test event of a user."""
    from image_editor.webhooks import callbacks

    files.serve("/hook", b"")

    def _deliver(client: Any = api) -> tuple[dict[str, str], bytes]:
        delivery = post(client, {"url": files.url("/hook")}, TEST)
        assert delivery.status_code == 202, delivery.content
        assert callbacks.send(delivery.json()["id"], 0) == "delivered"
        _, headers, body = files.seen[-1]
        return headers, body

    return _deliver


def secret_of(client: Any) -> str:
    return client.get(SECRET).json()["secret"]


def rotate(client: Any, seconds: int) -> Any:
    return post(client, {"overlap_seconds": seconds}, f"{SECRET}/rotate")


def test_the_example_of_the_specification_has_its_signature() -> None:
    from image_editor.webhooks import signature

    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert signature.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330, [key]) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_receiver_verifies_a_delivery_with_the_secret_of_the_user(api: Any, deliver: Any) -> None:
    headers, body = deliver()
    assert verified(secret_of(api), headers, body)
    assert not verified(secret_of(api), headers, body + b" ")
    assert not verified(secret_of(api), headers | {"webhook-id": "another"}, body)
    document = json.loads(body)
    assert document["type"] == "webhook.test"
    assert document["timestamp"]
    assert {"X-Callback-ID", "X-Signature"} <= headers.keys(), "a receiver of the former signature is broken"


def test_a_library_of_standard_webhooks_accepts_a_delivery(api: Any, deliver: Any) -> None:
    headers, body = deliver()
    assert Webhook(secret_of(api)).verify(body, headers)["type"] == "webhook.test"


def test_a_user_cannot_sign_for_another(api: Any, deliver: Any) -> None:
    make_user("bob", "b" * 43)
    bob = Client(headers={"Authorization": f"Bearer {'b' * 43}"})
    assert secret_of(bob) != secret_of(api)
    assert not verified(secret_of(bob), *deliver())
    assert verified(secret_of(bob), *deliver(bob))


def test_both_secrets_sign_until_the_overlap_ends(api: Any, deliver: Any) -> None:
    from image_editor.models import WebhookSecret

    former = secret_of(api)
    document = rotate(api, 3600).json()
    assert document["secret"] == secret_of(api) != former
    assert document["former_expires_at"] > timezone.now().isoformat()
    delivery = deliver()
    assert len(delivery[0]["webhook-signature"].split(" ")) == 2
    assert verified(former, *delivery)
    assert verified(document["secret"], *delivery)

    refused = problem(rotate(api, 3600), 409, "rotation_under_way")
    assert document["former_expires_at"][:19] in refused["detail"], "the detail does not say when to try again"
    assert secret_of(api) == document["secret"], "a request that was sent twice ended a secret"
    assert verified(former, *deliver())

    WebhookSecret.objects.update(former_expires_at=timezone.now() - timedelta(seconds=1))
    delivery = deliver()
    assert not verified(former, *delivery)
    assert verified(document["secret"], *delivery)
    assert rotate(api, 3600).status_code == 200


def test_a_rotation_without_an_overlap_ends_every_former_secret_at_once(api: Any, deliver: Any) -> None:
    leaked = [secret_of(api), rotate(api, 3600).json()["secret"]]
    new = rotate(api, 0).json()["secret"]
    delivery = deliver()
    assert verified(new, *delivery)
    assert not any(verified(secret, *delivery) for secret in leaked)


def test_the_secrets_of_the_former_key_sign_until_it_is_removed(api: Any, deliver: Any, settings: Any) -> None:
    former = secret_of(api)
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "k" * 50
    new = secret_of(api)
    assert new != former
    delivery = deliver()
    assert verified(former, *delivery)
    assert verified(new, *delivery)
    settings.SECRET_KEY_FALLBACKS = []
    delivery = deliver()
    assert not verified(former, *delivery)
    assert verified(new, *delivery)


def test_the_database_alone_does_not_reveal_a_secret(api: Any, settings: Any) -> None:
    from image_editor.models import WebhookSecret

    secret = secret_of(api)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert WebhookSecret.objects.get().seed.bytes not in key
    assert secret_of(api) == secret
    settings.SECRET_KEY = "another"
    assert secret_of(api) != secret, "the secret follows from the database"


def test_the_answer_with_a_secret_is_not_cached(api: Any) -> None:
    assert api.get(SECRET)["Cache-Control"] == "no-store"
    problem(rotate(api, -1), 422)
    problem(Client().get(SECRET), 401)
