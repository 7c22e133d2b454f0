"""Configuration: the schema, loading with line numbers, credentials, and the last known good."""

__all__: list[str] = []
