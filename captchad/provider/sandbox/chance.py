"""Numbers drawn from the seed.

A draw depends only on the seed and on what it is for (operation, captcha, count), never on the order in which
requests arrive. So the same work meets the same faults again, however many clients share it.
"""

__all__ = ["draw"]

from hashlib import blake2b


def draw(*parts: object) -> float:
    """A number above 0 and below 1, always the same for the same parts."""
    digest = blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # 52 bits and a half: exact in a float, and never 0 or 1.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2.0**52
