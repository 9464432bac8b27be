"""Signatures against the specification's own example, and against a verifier written from it."""

import base64
import hashlib
import hmac

import pytest

from eventing.signing import new_secret, signature, signature_headers

# The example of the Standard Webhooks specification and of its reference libraries' tests.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'
EXPECTED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_specifications_example_has_the_signature_it_names() -> None:
    assert signature(MESSAGE, 1614265330, BODY, [SECRET]) == EXPECTED


def test_there_is_one_signature_for_each_secret_in_order() -> None:
    other = new_secret()
    both = signature(MESSAGE, 1614265330, BODY, [SECRET, other]).split(" ")
    assert both == [EXPECTED, signature(MESSAGE, 1614265330, BODY, [other])]


def test_a_new_secret_is_32_random_bytes_and_verifies() -> None:
    secret = new_secret()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert len(key) == 32
    assert secret != new_secret()
    digest = hmac.new(key, b"id.5." + BODY, hashlib.sha256).digest()
    assert signature("id", 5, BODY, [secret]) == "v1," + base64.b64encode(digest).decode()


def test_without_a_secret_there_is_no_signature_header() -> None:
    assert signature_headers("id", 5, BODY, []) == (
        ("webhook-id", "id"),
        ("webhook-timestamp", "5"),
    )
    assert [name for name, _ in signature_headers("id", 5, BODY, [SECRET])] == [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ]


@pytest.mark.parametrize("secret", ["whsec_", "", "whsec_not base64!"])
def test_what_is_no_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="a signing secret must be") as refused:
        signature("id", 5, BODY, [secret])
    assert "not base64!" not in str(refused.value)
