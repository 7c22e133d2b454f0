"""How long an answer can be used (protocol notes 1.5, "token life")."""

__all__ = ["token_life_s"]

_LIFE_S = {
    "userrecaptcha": 120.0,
    "hcaptcha": 120.0,
    "turnstile": 300.0,
    "amazon_waf": 300.0,
    "yandex": 300.0,
}

#: Answers that are read off the task itself do not age.
_AGELESS = frozenset({"post", "base64", "bls", "audio", "textcaptcha", "rotatecaptcha", "bounding_box"})

#: For methods whose life nobody documents: as the shortest known.
_UNKNOWN_LIFE_S = 120.0


def token_life_s(method: str) -> float | None:
    """Seconds that an answer of `method` stays usable; None when it does not age."""
    if method in _AGELESS:
        return None
    return _LIFE_S.get(method, _UNKNOWN_LIFE_S)
