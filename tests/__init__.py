"""The tests of captchad."""
