"""Puts the parts together and turns the loop."""
