"""An API key, and where it is one."""

__all__ = ["Key"]

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Key:
    """An API key with the address that it is for.

    A captcha is known at the address that it was submitted to, under the key that it was submitted with, and nowhere
    else: asked for at another one it would look lost, and be paid for again.
    """

    url: str  # no slash at its end makes another one of it
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def id(self) -> str:
        """Names the key in records and messages, and tells nothing of it."""
        return _name_of(self.url, self.secret)


@lru_cache(maxsize=256)
def _name_of(url: str, secret: str) -> str:
    return hashlib.blake2s(f"{url}\n{secret}".encode(), digest_size=4).hexdigest()
