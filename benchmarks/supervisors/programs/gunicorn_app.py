"""A WSGI application and gunicorn's hook: the last thing that a worker calls before it waits for requests."""

__all__ = ["app", "post_worker_init"]

from note import begin


def app(environ, start_response):
    """Answer anything with nothing."""
    start_response("204 No Content", [])
    return []


def post_worker_init(worker) -> None:
    """Called by gunicorn in the worker."""
    begin()
