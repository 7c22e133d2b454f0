"""The control socket: one JSON line in, one JSON line out."""
