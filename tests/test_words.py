"""What is near to a word that was typed."""

import pytest

from captchad.model.words import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("prioritty", ["sitekey", "priority"], "did you mean 'priority'?"),
        ("LOGS", ["logs"], "did you mean 'logs'?"),
        ("error_zero_balanse", ["ERROR_ZERO_BALANCE"], "did you mean 'ERROR_ZERO_BALANCE'?"),
        ("", ["a"], ""),
        ("word", [], ""),
        ("0123456789abcdef", ["status", "logs"], ""),
        ("word", (each for each in ["words"]), "did you mean 'words'?"),
        ("w" * 65, ["w" * 65], ""),  # it would take too long to find out
    ],
)
def test_the_nearest_word_is_named_as_it_is_spelled(word, known, hint):
    assert did_you_mean(word, known) == hint
