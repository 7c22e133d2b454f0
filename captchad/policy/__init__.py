"""Pure decisions: each takes a view and a time and returns what to do. No I/O, no clock, no global state."""
