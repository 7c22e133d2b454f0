"""Processes, heartbeats, and the parent's decisions about them."""
