"""share/: the man pages and completions that are committed are those of the sources, and programs read them."""

import re
import subprocess

import pytest

from docs.pages import SHARE, pages

PAGES = sorted(SHARE.glob("man/*/*"))


@pytest.mark.debian("go-md2man")
def test_share_is_up_to_date():
    found = {str(path.relative_to(SHARE)): path.read_text() for path in SHARE.rglob("*") if path.is_file()}
    made = pages()

    assert set(found) == set(made)
    stale = [name for name, text in made.items() if text != found[name]]
    assert stale == [], "run `make pages`"


def test_no_page_sends_its_reader_into_a_source_tree():
    installed = [*SHARE.rglob("*"), *SHARE.parent.glob("etc/*.toml")]
    found = [path.name for path in installed if path.is_file() and re.search(r"\bdocs/\w+\.md", path.read_text())]

    assert found == []


@pytest.mark.debian("man-db")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_reads_its_page_without_a_warning(page):
    environ = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANROFFOPT": "-ww"}
    command = ["man", "--warnings", "--local-file", str(page)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert done.stdout.startswith(page.stem)
    assert all(heading in done.stdout for heading in ("\nNAME\n", "\nSYNOPSIS\n", "\nDESCRIPTION\n", "\nSEE ALSO\n"))


def answers(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes():
    script = f"""
source {SHARE}/bash-completion/completions/captchactl
complete=$(complete -p captchactl | sed 's/.*-F //; s/ .*//')
words() {{
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    "$complete" captchactl "${{@: -1}}" "${{@: -2:1}}"
    echo "${{COMPREPLY[@]}}"
}}
words captchactl dl
words captchactl dlq red
words captchactl install --pre
words captchactl logs --event breaker_o
words captchactl bill --by prov
"""

    assert answers("bash", "-c", script) == ["dlq", "redrive", "--prefix", "breaker_opened", "provider"]


@pytest.mark.debian("fish")
def test_fish_completes(tmp_path):
    path = SHARE / "fish" / "vendor_completions.d" / "captchactl.fish"
    script = f"set -x HOME {tmp_path}; source {path}; complete --do-complete 'captchactl dl'"

    assert answers("fish", "--no-config", "-c", script)[0] == "dlq"


@pytest.mark.debian("zsh")
def test_zsh_completes():
    # Its completion works on a terminal alone. What is typed ends in a tab; what comes back has the rest of the word.
    script = f"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; fpath=({SHARE}/zsh/site-functions \\$fpath); autoload -Uz compinit; compinit -u -D; echo re''ady"
zpty -r shell line '*ready*'
for words in 'captchactl dlq redr' 'captchad sandb'; do
    zpty -w -n shell "$words"$'\\t'
    zpty -r shell line '*(redrive|sandbox)*' && echo $words
    zpty -w -n shell $'\\C-u'
done
zpty -d shell
"""

    assert answers("zsh", "-fc", script) == ["captchactl", "dlq", "redr", "captchad", "sandb"]
