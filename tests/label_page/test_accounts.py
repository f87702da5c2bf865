import pytest

from trl_real.label_page.accounts import Accounts


PASSWORDS = {"anna": "one", "Jörg ✓": "two:three"}


def test_the_password_opens_a_session_that_outlives_the_server():
    for name, password in PASSWORDS.items():
        session = Accounts(PASSWORDS).sign_in(name, password)
        assert Accounts(PASSWORDS).who(session) == name
        assert password not in session


@pytest.mark.parametrize(
    ("name", "password"),
    [("anna", "two:three"), ("anna", ""), ("Anna", "one"), ("nobody", "one"), ("\ud800", "\ud800")],
)
def test_nothing_else_does(name, password):
    assert Accounts(PASSWORDS).sign_in(name, password) is None


def test_a_session_is_of_one_annotator_and_one_password():
    accounts = Accounts(PASSWORDS)
    name, _, proof = accounts.sign_in("anna", "one").partition(".")
    other, _, other_proof = accounts.sign_in("Jörg ✓", "two:three").partition(".")
    forged = [
        f"{other}.{proof}",
        f"{name}.{other_proof}",
        name,
        f"{name}.",
        proof,
        "",
        "é",
        "....",
        f"{name}.{proof}x",
    ]
    assert [accounts.who(session) for session in forged] == [None] * len(forged)
    assert Accounts(PASSWORDS | {"anna": "changed"}).who(f"{name}.{proof}") is None
    assert Accounts({"Jörg ✓": "one"}).who(f"{name}.{proof}") is None


def test_the_first_is_the_lead():
    assert Accounts(PASSWORDS).lead == "anna"
