import math

import pytest
from huggingface_hub import HfApi
from local_hub import ALICE, ALICE_READS

from trl_real.hub import access, retries
from trl_real.hub.access import check_can_push


def test_what_can_be_pushed_to(hub, monkeypatch):
    HfApi(token=ALICE).create_repo("alice/there", repo_type="dataset", private=True)
    for name in ("there", "alice/there", "new", "alice/new"):
        check_can_push(name, "dataset", token=ALICE)
    check_can_push("there", "dataset", private=True, token=ALICE)
    assert set(hub.repos) == {("dataset", "alice/there")}
    # Nothing is written but the repository above, although a client may ask again for what was lost on the way.
    assert {path for method, path, *_ in hub.requests if method != "GET"} == {"/api/repos/create"}
    monkeypatch.setenv("HF_TOKEN", ALICE)
    check_can_push("new", "model")


@pytest.mark.parametrize(
    ("name", "token", "error", "message"),
    [
        ("a/b/c", ALICE, ValueError, "`repo_id='a/b/c'` cannot be the name of a repository"),
        ("bad name", ALICE, ValueError, "`repo_id='bad name'` cannot be the name of a repository"),
        (
            "new",
            ALICE_READS,
            PermissionError,
            "has no write access, because it is read-only. Create a token with the role",
        ),
        (
            "bob/new",
            ALICE,
            PermissionError,
            "neither 'alice' nor one of your organizations (none). Choose a name in one",
        ),
        ("new", None, PermissionError, "Could not push to 'new': you are not logged in. Run `hf auth login`"),
        (
            "new",
            "hf_" + "z" * 34,
            PermissionError,
            "Could not push to 'new': you are not logged in, or the token is not",
        ),
    ],
)
def test_what_cannot(name, token, error, message, hub):
    with pytest.raises(error) as raised:
        check_can_push(name, "dataset", token=token)
    assert message in str(raised.value)
    assert "hf_" not in str(raised.value)
    assert not hub.repos


def test_a_public_dataset_is_not_made_private(hub):
    HfApi(token=ALICE).create_repo("alice/there", repo_type="dataset")
    with pytest.raises(ValueError, match="alice/there must be private, but it already exists and is public"):
        check_can_push("there", "dataset", private=True, token=ALICE)
    check_can_push("there", "dataset", token=ALICE)


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        ({"name": "alice"}, True),  # of a Hub that does not say what a token may do, nor which organizations there are
        ({"name": "alice", "auth": None, "orgs": [{"name": "team"}]}, True),
        ({"name": "alice", "auth": {"accessToken": {"role": "write"}}, "orgs": [{"name": "team"}]}, True),
        ({"name": "alice", "auth": {"accessToken": {"role": "fineGrained"}}, "orgs": []}, False),
    ],
)
def test_organizations(answer, allowed, hub, monkeypatch):
    monkeypatch.setattr(access.HfApi, "whoami", lambda self: answer)
    if allowed:
        check_can_push("team/new", "model", token=ALICE)
    else:
        with pytest.raises(PermissionError, match="'team/new': the token has no write access, because the namespace"):
            check_can_push("team/new", "model", token=ALICE)


def test_a_hub_that_does_not_answer(hub, monkeypatch):
    monkeypatch.setattr(retries, "WAIT", 0.0)
    hub.fail("GET", "whoami", 503, times=2)
    check_can_push("new", "model", token=ALICE)
    hub.fail("GET", "whoami", "drop", times=math.inf)
    with pytest.raises(ConnectionError, match=r"Could not push to 'new': the Hub at .* does not answer"):
        check_can_push("new", "model", token=ALICE)
