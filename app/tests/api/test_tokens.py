"""A user's tokens: named, limited, rotated and revoked. Nobody is locked out, and only digests are stored."""

import io
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from conftest import TOKEN, make_user
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from helpers import EDITS, post, problem, upload
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)
TOKENS = "/api/v1/tokens"
SECRET = "/api/v1/webhooks/secret"


@pytest.fixture(autouse=True)
def any_number(settings: Any) -> None:
    """tests/api/test_limits.py has the limit of new tokens."""
    settings.TOKENS_PER_MINUTE = 0


def make(api: Any, name: str = "shop", **fields: Any) -> dict[str, Any]:
    answer = post(api, {"name": name, **fields}, TOKENS)
    assert answer.status_code == 201, answer.content
    return answer.json()


def rotate(api: Any, token: dict[str, Any], seconds: float) -> dict[str, Any]:
    answer = post(api, {"overlap_seconds": seconds}, f"{TOKENS}/{token['id']}/rotate")
    assert answer.status_code == 201, answer.content
    return answer.json()


def revoke(api: Any, token: dict[str, Any]) -> Any:
    return api.delete(f"{TOKENS}/{token['id']}")


def listed(api: Any) -> dict[str, dict[str, Any]]:
    return {token["name"]: token for token in api.get(TOKENS).json()["items"]}


def client(token: dict[str, Any]) -> Client:
    return Client(headers={"Authorization": f"Bearer {token['token']}"})


def accepted(token: dict[str, Any]) -> bool:
    from image_editor import auth

    auth.forget()
    status = client(token).get(EDITS).status_code
    assert status in (200, 401)
    return status == 200


def remember(token: dict[str, Any]) -> None:
    """Let this process take a revoked token for valid, as another process does that has seen it lately."""
    from image_editor import auth
    from image_editor.models import ApiToken

    user = ApiToken.objects.first().user
    row = ApiToken(user=user, name=token["name"], digest=auth.digest(token["token"]))
    auth._rows[row.digest] = (time.monotonic() + 9, row)


def expire(name: str, since: timedelta = timedelta(0)) -> None:
    from image_editor.models import ApiToken

    ApiToken.objects.filter(name=name).update(expires_at=timezone.now() - since)


def test_a_new_token_is_shown_once_and_stored_as_a_hash(api: Any, services: Services) -> None:
    made = make(api)
    assert accepted(made)
    document = listed(api)["shop"]
    assert document.keys() == made.keys() - {"token"}
    assert document["id"] == made["id"]
    assert (document["scope"], document["state"], document["expires_at"]) == ("write", "active", None)
    rows = services.psql("SELECT api_token::text FROM api_token", database="app")
    assert len(rows) == 2
    assert not [row for row in rows if made["token"] in row[0]]
    assert api.get(TOKENS)["Cache-Control"] == "no-store"


def test_the_list_tells_the_last_use_and_the_token_of_the_request(api: Any) -> None:
    made = make(api)
    assert made["last_used_at"] is None
    assert not made["current"]
    (mine,) = [token for token in client(made).get(TOKENS).json()["items"] if token["current"]]
    assert mine["id"] == made["id"]
    assert mine["last_used_at"] >= made["created_at"]
    assert listed(api)[""]["current"], "the token that an earlier release has made"


def test_the_last_use_is_not_written_for_each_request(api: Any, django_assert_num_queries: Any) -> None:
    from image_editor import auth

    api.get(EDITS)
    auth.forget()
    with django_assert_num_queries(2):  # the token, and the list
        api.get(EDITS)


def test_a_token_that_may_only_read_changes_nothing(api: Any, photo: bytes) -> None:
    reader = client(make(api, scope="read"))
    assert reader.get(EDITS).status_code == 200
    assert reader.get(TOKENS).status_code == 200
    problem(upload(reader, photo), 403, "scope_read")
    for scope in ("read", "write"):
        problem(post(reader, {"name": "more", "scope": scope}, TOKENS), 403, "scope_read")
    problem(post(reader, {}, f"{TOKENS}/{listed(api)['']['id']}/rotate"), 403, "scope_read")
    problem(reader.post("/api/v1/uploads", {"image": io.BytesIO(photo)}), 403, "scope_read")
    problem(reader.delete(f"{EDITS}/{uuid.uuid4()}"), 403, "scope_read")
    problem(revoke(reader, listed(api)[""]), 403, "scope_read")
    problem(reader.get(SECRET), 403, "scope_read")
    assert api.get(SECRET).status_code == 200


def test_the_token_of_a_program_edits_and_changes_no_token_but_itself(api: Any, photo: bytes) -> None:
    made = make(api, manages_tokens=False)
    assert (made["scope"], made["manages_tokens"]) == ("write", False)
    assert make(api, "other")["manages_tokens"], "a client of an earlier release gets less than it had"
    assert not make(api, "reader", scope="read")["manages_tokens"]
    program, other = client(made), listed(api)["other"]
    assert upload(program, photo).status_code == 202
    assert program.get(SECRET).status_code == 200
    problem(post(program, {"name": "more"}, TOKENS), 403, "manages_no_tokens")
    problem(post(program, {}, f"{TOKENS}/{other['id']}/rotate"), 404)
    problem(revoke(program, other), 404)
    assert not Client().login(username="alice", password=made["token"])
    replaced = rotate(program, made, 0)
    assert not replaced["manages_tokens"], "a rotation gives more than it replaced"
    assert revoke(client(replaced), replaced).status_code == 204
    assert listed(api).keys() == {"", "other", "reader"}


def test_an_earlier_release_lets_the_token_of_a_program_only_read(api: Any) -> None:
    from image_editor.models import ApiToken

    make(api, manages_tokens=False)
    row = ApiToken.objects.get(name="shop")
    assert (row.scope, row.digest.isupper()) == ("work", True), "the release before lets it manage tokens"


def test_a_token_that_may_only_read_signs_nobody_in(api: Any) -> None:
    assert not Client().login(username="alice", password=make(api, scope="read")["token"])
    assert Client().login(username="alice", password=make(api, expires_in_seconds=3600)["token"])


def test_a_token_that_expires_makes_none_that_outlives_it(api: Any) -> None:
    from image_editor import auth
    from image_editor.models import ApiToken

    forever, maker = make(api, "forever"), make(api, "maker", expires_in_seconds=3600)
    longer = make(api, "longer", expires_in_seconds=7200)
    shorter = make(api, "shorter", scope="read", expires_in_seconds=60)
    ApiToken.objects.update(parent=None)  # as if an operator had made them, so each of them manages all
    used = client(maker)
    for seconds in (None, 3700):
        refused = problem(post(used, {"name": "x", "expires_in_seconds": seconds}, TOKENS), 403, "expires_too_late")
        assert maker["expires_at"][:19] in refused["detail"]
        assert "use a token that lasts longer" in refused["detail"]
    for token in (forever, longer):
        problem(post(used, {}, f"{TOKENS}/{token['id']}/rotate"), 403, "expires_too_late")
        assert accepted(token), "a refused rotation ended the token"
    assert rotate(used, shorter, 0)["expires_at"] < maker["expires_at"]
    assert make(used, "y", expires_in_seconds=3000)["expires_at"] < maker["expires_at"]

    replaced = rotate(used, maker, 3600)
    assert replaced["expires_at"] == maker["expires_at"], "a token prolonged itself"
    auth.forget()
    assert rotate(used, maker, 0)["expires_at"] == maker["expires_at"]


def test_a_token_in_its_overlap_makes_no_other_that_lasts_and_can_still_ask_again(api: Any) -> None:
    from image_editor import auth

    former = make(api)
    used = client(former)
    assert rotate(used, former, 3600)["expires_at"] is None
    auth.forget()
    problem(post(used, {"name": "x"}, TOKENS), 403, "expires_too_late")
    assert rotate(used, former, 3600)["expires_at"] is None, "a lost answer cannot be asked for again"


def test_a_session_makes_no_token_that_outlives_the_one_it_began_with(api: Any, user: Any, plain_static: None) -> None:
    from image_editor import tokens
    from image_editor.models import ApiToken

    page, end = Client(), timezone.now() + timedelta(hours=1)
    assert page.login(username="alice", password=tokens.make(ApiToken(user=user, name="maker", expires_at=end)))
    problem(post(page, {"name": "x"}, TOKENS), 403, "expires_too_late")
    assert make(page, "x", expires_in_seconds=60)["expires_at"]
    user.is_staff = user.is_superuser = True
    user.save()
    form = {"user": user.pk, "name": "y", "scope": "write", "expires_at_0": "", "expires_at_1": ""}
    answer = page.post("/admin/image_editor/apitoken/add/", form)
    assert "no token that it makes may last longer" in answer.content.decode()
    assert listed(api).keys() == {"", "maker", "x"}


def test_a_session_ends_with_the_overlap_of_the_token_it_began_with(api: Any) -> None:
    token, page = make(api), Client()
    assert page.login(username="alice", password=token["token"])
    rotate(api, token, 3600)
    assert page.get(EDITS).status_code == 200
    expire("shop")
    problem(page.get(EDITS), 401)


def test_with_a_token_ends_everything_that_was_made_with_it(api: Any, figure: Callable) -> None:
    leaked, other = make(api, "leaked"), make(api, "other")
    child = make(client(leaked), "child")
    page = Client()
    assert page.login(username="alice", password=child["token"])
    family = [
        leaked,
        child,
        make(client(child), "grandchild"),
        make(page, "of the page"),
        rotate(client(child), child, 60),
    ]
    assert all(map(accepted, family))
    revoke(api, leaked)
    figure("token_descendants_alive", sum(map(accepted, family)), "tokens", 0)
    problem(page.get(EDITS), 401)
    assert accepted(other)
    assert listed(api).keys() == {"", "other"}


def test_a_token_that_was_made_with_another_manages_itself_and_what_was_made_with_it_alone(api: Any) -> None:
    owner, sister = make(api, "owner"), make(api, "sister")
    child = make(client(owner), "child")
    grandchild = make(client(child), "grandchild")
    for token in (owner, sister):
        problem(revoke(client(child), token), 404, "not_found")
        problem(post(client(child), {}, f"{TOKENS}/{token['id']}/rotate"), 404, "not_found")
    assert revoke(client(child), grandchild).status_code == 204
    assert revoke(client(child), child).status_code == 204
    assert accepted(owner)


@pytest.mark.parametrize(("overlap", "lives"), [(3600, True), (0, False)])
def test_what_was_made_with_a_token_outlives_its_rotation_with_an_overlap_alone(
    api: Any, overlap: int, lives: bool
) -> None:
    """A token that leaked is replaced without one."""
    former = make(api)
    child = make(client(former), "child")
    new = rotate(api, former, overlap)
    assert accepted(child) == lives
    revoke(api, new)
    assert not accepted(child)


def test_a_token_does_not_replace_itself_again_once_its_replacement_is_used(api: Any) -> None:
    """Until then it may: its client has not got the answer. The replacement that nobody has used ends."""
    former = make(api)
    used = client(former)
    lost, new = rotate(used, former, 3600), rotate(used, former, 3600)
    assert (accepted(lost), accepted(new)) == (False, True)
    for overlap in (3600, 0):
        body = {"overlap_seconds": overlap}
        problem(post(used, body, f"{TOKENS}/{former['id']}/rotate"), 409, "already_replaced")
    assert accepted(former)
    assert accepted(rotate(api, former, 0)), "another token of the owner cannot replace it"


def test_the_previous_release_removes_a_token_and_what_was_made_with_it_ends(api: Any, services: Services) -> None:
    owner = make(api, "owner")
    child = make(client(owner), "child")
    services.psql("DELETE FROM api_token WHERE name = 'owner'", database="app")
    assert not accepted(child)


def test_a_token_expires_at_its_time_although_it_is_remembered(api: Any) -> None:
    made = make(api, expires_in_seconds=2)
    assert accepted(made)
    time.sleep(2)
    problem(client(made).get(EDITS), 401, "token_missing")
    assert listed(api)["shop"]["state"] == "expired"


def test_a_session_ends_when_its_token_expires(api: Any) -> None:
    page = Client()
    assert page.login(username="alice", password=make(api, expires_in_seconds=60)["token"])
    assert page.get(EDITS).status_code == 200
    assert 50 < page.session.get_expiry_age() <= 60
    assert Client().login(username="alice", password=TOKEN)


def test_both_tokens_work_until_the_overlap_ends(api: Any) -> None:
    former = make(api, scope="read", expires_in_seconds=7200)
    new = rotate(api, former, 3600)
    assert (new["name"], new["scope"]) == ("shop", "read")
    assert new["expires_at"] > former["expires_at"], "the new token does not have the whole lifetime"
    assert accepted(former)
    assert accepted(new)
    ends = {token["id"]: token["expires_at"] for token in api.get(TOKENS).json()["items"]}
    assert ends[former["id"]] < former["expires_at"]

    again = rotate(api, former, 7000)
    assert again["expires_at"] > new["expires_at"], "a lost answer cannot be asked for again"
    now = {token["id"]: token["expires_at"] for token in api.get(TOKENS).json()["items"]}
    assert now[former["id"]] == ends[former["id"]]
    assert accepted(new)


def test_a_rotation_without_overlap_ends_the_former_token_at_once(api: Any) -> None:
    former = make(api)
    new = rotate(api, former, 0)
    assert not accepted(former)
    assert accepted(new)
    assert accepted({"token": TOKEN})


def test_a_revoked_token_is_gone_and_the_others_stay(api: Any) -> None:
    first, second = make(api, "first"), make(api, "second")
    answer = revoke(api, first)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not accepted(first)
    assert accepted(second)
    problem(revoke(api, first), 404)


def test_the_page_stays_signed_in_when_it_revokes_another_token(api: Any) -> None:
    token = make(api)
    page, other = Client(), Client()
    assert page.login(username="alice", password=TOKEN)
    assert other.login(username="alice", password=token["token"])
    assert revoke(page, token).status_code == 204
    assert page.get(EDITS).status_code == 200
    problem(other.get(EDITS), 401)
    own = next(found for found in page.get(TOKENS).json()["items"] if found["current"])
    assert revoke(page, own).status_code == 204
    problem(page.get(EDITS), 401)


def test_a_revocation_ends_only_the_sessions_that_began_with_the_token(api: Any, user: Any, plain_static: None) -> None:
    """Also those of a user with a password, and those of the admin."""
    from image_editor import tokens
    from image_editor.models import ApiToken

    user.set_password("correct horse battery staple")
    user.is_staff = user.is_superuser = True
    user.save()
    token = ApiToken(user=user, name="from an operator")
    thief, owner, other = Client(), Client(), Client()
    assert thief.login(username="alice", password=tokens.make(token))
    assert owner.login(username="alice", password="correct horse battery staple")
    assert other.login(username="alice", password=TOKEN)
    assert thief.get("/admin/").status_code == 200
    assert revoke(api, {"id": token.public_id}).status_code == 204
    assert thief.get("/admin/").status_code == 302
    problem(thief.get(EDITS), 401)
    for page in (owner, other):
        assert page.get("/admin/").status_code == 200
        assert page.get(EDITS).status_code == 200


def test_a_token_that_a_user_has_made_opens_nothing_in_the_admin(api: Any, user: Any) -> None:
    user.is_staff = user.is_superuser = True
    user.save()
    token, page = make(api), Client()
    assert page.login(username="alice", password=token["token"])
    assert page.get(EDITS).status_code == 200
    assert page.get("/admin/").status_code == 302
    assert revoke(api, token).status_code == 204
    problem(page.get(EDITS), 401)


def test_tokens_of_other_users_answer_404(api: Any) -> None:
    made = make(api)
    make_user("bob", "b" * 43)
    bob = client({"token": "b" * 43})
    problem(revoke(bob, made), 404)
    problem(post(bob, {}, f"{TOKENS}/{made['id']}/rotate"), 404)
    assert len(bob.get(TOKENS).json()["items"]) == 1
    assert accepted(made)


def test_a_user_has_a_limited_number_of_tokens(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor import tokens

    monkeypatch.setattr(tokens, "LIVE_MAX", 2)
    made = make(api)
    assert problem(post(api, {"name": "more"}, TOKENS), 409, "too_many_tokens")["detail"].startswith("at most 2 tokens")
    problem(post(api, {}, f"{TOKENS}/{made['id']}/rotate"), 409, "too_many_tokens")
    expire("shop")
    make(api, "more")
    expire("shop", since=timedelta(days=8))
    revoke(api, listed(api)["more"])
    make(api, "last")
    assert listed(api).keys() == {"", "last"}, "a token that expired long ago is in the list"


def test_a_leaked_token_is_replaced_although_there_is_no_room(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor import tokens

    leaked = make(api)
    monkeypatch.setattr(tokens, "LIVE_MAX", 2)
    new = rotate(api, leaked, 0)
    assert (accepted(leaked), accepted(new)) == (False, True)
    assert len(listed(api)) == 2


def test_requests_at_once_make_no_more_tokens_than_a_user_may_have(
    api: Any, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor import tokens

    monkeypatch.setattr(tokens, "LIVE_MAX", 2)

    def one(number: int) -> int:
        try:
            return post(client({"token": TOKEN}), {"name": f"shop {number}"}, TOKENS).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(one, range(4))) == [201, 409, 409, 409]
    assert tokens.live(user) == 2


def test_no_command_and_no_operator_makes_more_tokens_than_a_user_may_have(
    user: Any, monkeypatch: pytest.MonkeyPatch, plain_static: None
) -> None:
    from image_editor import tokens

    monkeypatch.setattr(tokens, "LIVE_MAX", 1)
    for arguments in (("make", "alice", "x"), ("rotate", "alice", str(user.api_tokens.get().public_id))):
        with pytest.raises(CommandError, match="at most 1 tokens of a user: revoke one"):
            call_command("tokens", *arguments)
    user.is_staff = user.is_superuser = True
    user.save()
    operator = Client()
    operator.force_login(user, "django.contrib.auth.backends.ModelBackend")
    form = {"user": user.pk, "name": "x", "scope": "write", "expires_at_0": "", "expires_at_1": ""}
    answer = operator.post("/admin/image_editor/apitoken/add/", form)
    assert "at most 1 tokens of a user: revoke one" in answer.content.decode()
    assert tokens.live(user) == 1


def test_the_list_has_a_limited_number_of_expired_tokens(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor import tokens

    monkeypatch.setattr(tokens, "EXPIRED_MAX", 2)
    for name in ("first", "second", "third"):
        make(api, name)
        expire(name)
    make(api, "last")
    assert listed(api).keys() == {"", "second", "third", "last"}


@pytest.mark.parametrize(
    "body",
    [
        *[{}, {"name": ""}, {"name": "x" * 65}, {"name": "\0"}, {"name": "\ud800"}, {"name": "x", "scope": "all"}],
        *[{"name": "x", "expires_in_seconds": seconds} for seconds in (0, -1, 1e10, "60")],
    ],
)
def test_a_token_that_cannot_be_made_is_refused(api: Any, body: dict[str, Any]) -> None:
    problem(post(api, body, TOKENS), 422, "invalid")
    assert len(listed(api)) == 1


def test_the_previous_release_finds_no_limited_token(api: Any) -> None:
    """It looks for the digest alone, and would take a token that may only read for one that may do everything."""
    from image_editor.auth import digest
    from image_editor.models import ApiToken

    def found(token: dict[str, Any]) -> bool:
        return ApiToken.objects.filter(digest=digest(token["token"])).exists()

    plain = make(api)
    assert found(plain)
    assert not found(make(api, scope="read"))
    assert not found(make(api, expires_in_seconds=3600))
    rotate(api, plain, 3600)
    assert not found(plain)
    assert accepted(plain)


def test_the_migration_keeps_tokens_and_its_reversal_revokes_limited_ones(api: Any, services: Services) -> None:
    from image_editor.models import ApiToken

    plain, reader = make(api, "plain"), make(api, "reader", scope="read")
    # As the previous release does while the new schema is there.
    services.psql(
        "INSERT INTO api_token (digest, created_at, user_id)"
        " SELECT md5('x') || md5('y'), now(), user_id FROM api_token WHERE name = ''",
        database="app",
    )
    assert ApiToken.objects.filter(name="", scope="write", expires_at=None).count() == 2
    call_command("migrate", "image_editor", "0012", verbosity=0)
    try:
        kept = services.psql("SELECT count(*) FROM api_token", database="app")[0][0]
    finally:
        call_command("migrate", verbosity=0)
    assert kept == 3
    assert accepted(plain)
    assert accepted({"token": TOKEN})
    assert not accepted(reader)


def test_a_revoked_token_is_refused_once_it_is_forgotten(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """molecule/application/test_web.py measures the time on a running API."""
    from image_editor import auth

    assert auth.REMEMBERED < 10
    monkeypatch.setattr(auth, "REMEMBERED", 1)
    made = make(api)
    assert accepted(made)
    revoke(api, made)
    assert client(made).get(EDITS).status_code == 200, "nothing was remembered"
    time.sleep(1)
    assert client(made).get(EDITS).status_code == 401


def test_a_revoked_token_that_is_still_remembered_makes_no_other_and_shows_no_secret(api: Any) -> None:
    thief = make(api)
    used = client(thief)
    assert used.get(EDITS).status_code == 200
    revoke(api, thief)
    for ask in (
        lambda: post(used, {"name": "x"}, TOKENS),
        lambda: post(used, {}, f"{TOKENS}/{listed(api)['']['id']}/rotate"),
        lambda: revoke(used, listed(api)[""]),
        lambda: used.get(SECRET),
        lambda: post(used, {}, f"{SECRET}/rotate"),
    ):
        remember(thief)
        assert used.get(EDITS).status_code == 200, "nothing was remembered"
        problem(ask(), 401, "token_missing")
    assert listed(api).keys() == {""}


def test_a_token_that_is_revoked_during_its_rotation_makes_no_other(api: Any) -> None:
    from image_editor import tokens
    from image_editor.models import ApiToken

    make(api)
    row = ApiToken.objects.get(name="shop")
    revoke(api, listed(api)["shop"])
    for seconds in (0, 3600):
        with pytest.raises(ApiToken.DoesNotExist):
            tokens.rotate(row, timedelta(seconds=seconds))
    assert listed(api).keys() == {""}
