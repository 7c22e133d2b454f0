"""Configurations that differ in their workers, for the tests of generations."""

__all__ = ["KEYS", "config", "digest"]

from captchad.config.generations import digest_of
from captchad.config.load import from_dict
from captchad.config.schema import Config

KEYS = {"p": "SECRET"}


def config(workers: int) -> Config:
    """A valid one."""
    return from_dict(
        {
            "daemon": {"workers": workers},
            "policy": {"allowed_hosts": ["a.example"]},
            "provider": [{"name": "p", "url": "http://h", "api_key_file": "/k"}],
        }
    )


def digest(workers: int) -> str:
    """Its digest with KEYS."""
    return digest_of(config(workers), KEYS)
