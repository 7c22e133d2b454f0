"""`captchactl setup` in a real systemd: keys by file, standard input and terminal; and from one key to the next."""

import json
import os
import pty
import re
import select
import subprocess
from pathlib import Path

from tests.support.harness import eventually
from tests.support.sandbox import Sandbox
from tests.system.kit import (
    QUICK,
    UNITS,
    charges,
    drop,
    drop_in,
    install,
    journal,
    main_pid,
    result,
    run,
    scenario,
    show,
    status,
    step,
    wait_solved,
)

ETC = Path("/etc/captchad")
VAULT = ETC / "credentials"
OURS = ETC / "conf.d" / "10-setup.toml"
DROP_IN = UNITS / "captchad.service.d" / "setup-captchaai.key.conf"
KEYS = [letter * 32 for letter in "abc"]
#: Two accounts that solve; and the same while nothing is solved, however long it takes.
SOLVES = "".join(f'[[key]]\nkey = "{key}"\n' for key in KEYS[:2]) + QUICK
HOLDS = f'{SOLVES}[[rule]]\nop = "poll"\nfault = "CAPCHA_NOT_READY"\n'


def lay_out() -> None:
    """An installed captchad with the shipped configuration, made quick by a drop-in of the operator's."""
    install()
    (ETC / "conf.d").mkdir(exist_ok=True)
    (ETC / "conf.d" / "05-quick.toml").write_text(
        "[daemon]\nprobation_s = 1.0\n[supervision]\nheartbeat_s = 0.2\n"
        '[[provider]]\nname = "captchaai"\nurl = "http://127.0.0.1:9"\napi_key_credential = "captchaai.key"\n'
        "first_poll_s = 0.5\npoll_s = 0.2\npause_s = 1.0\n"
    )


def setup(*arguments: str, key: str = "", code: int = 0) -> str:
    """Run setup with `key` on standard input; what it printed, on both streams."""
    command = ["captchactl", "setup", *arguments]
    done = subprocess.run(command, input=key, text=True, capture_output=True, check=False, timeout=120)
    printed = done.stdout + done.stderr
    assert done.returncode == code, f"{command}: status {done.returncode}\n{printed}\n{journal()[-4000:]}"
    assert not any(each in printed for each in KEYS), printed
    return printed


def has(said: str, *texts: str) -> None:
    assert [each for each in texts if each not in said] == [], said


def files(directory: Path) -> dict[str, str]:
    """Names and modes."""
    return {each.name: f"{each.stat().st_mode & 0o7777:o}" for each in directory.iterdir()}


def no_secret_is_told(sandbox: Sandbox) -> None:
    """Keys are in no log, no status, and none of the files that others may read."""
    others = [OURS, DROP_IN, Path("/var/lib/captchad/status.json")]
    texts = [run("journalctl", "--no-pager").stdout, json.dumps(status()), *(each.read_text() for each in others)]
    assert not any(key in text for key in [sandbox.key, *KEYS] for text in texts)


@scenario
def setup_from_nothing_to_the_first_answer(directory: Path) -> None:
    lay_out()
    refusals(directory)
    refusals_of_the_place(directory)
    with Sandbox(scenario=QUICK) as sandbox:
        key_file = directory / "key"
        key_file.write_text(f"{sandbox.key}\n")
        url = ("--provider-url", sandbox.url)

        said = setup("--api-key-file", str(key_file), "--allow-host", "example.com", *url, "--dry-run")
        assert [OURS.exists(), DROP_IN.exists(), files(VAULT)] == [False, False, {}]
        assert show("captchad", "ActiveState") == "inactive"
        has(said, f"would write {OURS}", "would start captchad.service")
        step("a dry run changes nothing")

        said = setup("--api-key-file", str(key_file), "--allow-host", "example.com", *url)
        step(said)
        has(said, "provider captchaai takes the key, balance", "encrypted by systemd-creds", "captchad  running")
        assert files(VAULT) == {"captchaai.key.cred": "600"}
        assert sandbox.key not in (VAULT / "captchaai.key.cred").read_text()
        assert run("systemctl", "is-enabled", "captchad").stdout == "enabled\n"
        assert (show("captchad", "NRestarts"), show("captchad", "SubState")) == ("0", "running")
        verified = run("systemd-analyze", "verify", "captchad.service")
        assert (verified.stdout, verified.stderr) == ("", "")
        wait_solved(drop("first", 3))
        step("the key is encrypted, the service runs and solves")

        before, pid = (
            [each.read_bytes() for each in (OURS, DROP_IN, VAULT / "captchaai.key.cred")],
            main_pid("captchad"),
        )
        for arguments, key in (((), ""), (("--yes",), ""), (("--api-key-file", "-"), sandbox.key), (url, "")):
            assert "the key of captchaai stays as it is" in setup(*arguments, key=key)
        assert [each.read_bytes() for each in (OURS, DROP_IN, VAULT / "captchaai.key.cred")] == before
        assert files(VAULT) == {"captchaai.key.cred": "600"}
        assert main_pid("captchad") == pid
        step("again: everything stays, and nothing is restarted")

        assert json.loads(run("captchactl", "--json", "setup", "--yes").stdout)["daemon"]["pid"] == pid
        has(setup(key=KEYS[2], code=1), "refuses the key (ERROR_KEY_DOES_NOT_EXIST)", "nothing was changed")
        assert [each.read_bytes() for each in (OURS, DROP_IN, VAULT / "captchaai.key.cred")] == before
        step("a key that the provider does not know is not stored")
        no_secret_is_told(sandbox)


def refusals(directory: Path) -> None:
    """What setup does not take, each time before it has changed anything."""
    file, main = directory / "given", ETC / "captchad.toml"
    shipped = main.read_bytes()
    for content, wanted in (
        (b"", f"{file} is empty"),
        (b"secret-1 secret-2\n", "the key has a blank or control character inside"),
        (b"s" * 4097, "is larger than 4096 bytes"),
    ):
        file.write_bytes(content)
        said = setup("--allow-host", "example.com", "--api-key-file", str(file), code=1)
        has(said, wanted)
        assert "secret" not in said
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    for arguments, wanted in (
        ((), "the configuration does not say which hosts you may automate\nhint: name each with --allow-host HOST"),
        (("--allow-host", "a.b"), "there is no key of captchaai yet, and standard input is empty"),
        (("--allow-host", "a.b", "--api-key-file", "-"), "standard input is empty; nothing was changed"),
        (("--allow-host", "a.b", "--yes"), "hint: give it by --api-key-file FILE, or on standard input"),
        (("--allow-host", "a.b", "--api-key-file", str(directory / "none")), "none: no such file or directory"),
        (("--allow-host", "a.b", "--api-key-file", str(fifo)), f"{fifo} is no regular file"),
        (("--allow-host", "https://example.com/"), "the host alone, without scheme and path"),
        (("--provider-url", "http://user:secret@host"), "--provider-url must not carry a user or password"),
        (("--provider", "other"), "there is no provider other; configured: captchaai"),
        (("--config", str(directory / "none.toml")), "none.toml:0: file: cannot be read"),
    ):
        said = setup(*arguments, code=1)
        has(said, wanted)
        assert "secret" not in said
    main.write_text("[daemon\n")
    has(setup(key=KEYS[0], code=1), f"{main}:1: syntax: no TOML")
    main.write_bytes(shipped)
    assert [OURS.exists(), DROP_IN.exists(), files(VAULT)] == [False, False, {}]
    step("bad keys and bad arguments are refused")


def refusals_of_the_place(directory: Path) -> None:
    """Where setup cannot be run."""
    command = ["captchactl", "setup"]
    nobody = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command, ok=False)
    said = "captchactl: setup needs root: it writes below /etc and directs systemd\n"
    assert (nobody.returncode, nobody.stderr) == (4, said)
    hidden = "mount --types tmpfs none /run && exec captchactl setup"
    without = run("unshare", "--mount", "sh", "-c", hidden, ok=False)
    assert (without.returncode, without.stderr.splitlines()[0]) == (1, "captchactl: systemd does not run here")

    unit, mask = Path(show("captchad", "FragmentPath")), UNITS / "captchad.service"
    kept = unit.read_bytes()
    unit.unlink()
    run("systemctl", "daemon-reload")
    has(setup(code=1), "there is no captchad.service", "hint: install the package, or run captchactl install")
    mask.symlink_to("/dev/null")
    run("systemctl", "daemon-reload")
    has(setup(code=1), "captchad.service is masked")
    mask.unlink()
    unit.write_bytes(kept)
    run("systemctl", "daemon-reload")
    step("no root, no systemd and no unit are refused")


def on_a_terminal(command: list[str], answers: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of its own and answer its questions: its status, and what the terminal showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    shown, asked = "", dict(answers)
    while select.select([terminal], [], [], 60.0)[0]:
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError:  # the other end is closed
            break
        for question in [each for each in asked if each in shown]:
            os.write(terminal, f"{asked.pop(question)}\n".encode())
    os.close(terminal)  # who still asks is hung up on
    assert asked == {}, f"never asked: {list(asked)}\n{shown}"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@scenario
def setup_on_a_terminal_asks_and_says_why_a_start_failed(directory: Path) -> None:
    lay_out()
    with Sandbox(scenario=QUICK) as sandbox:
        command = ["captchactl", "setup", "--provider-url", sandbox.url]
        code, shown = on_a_terminal(
            command, {"API key of captchaai": "", "Hosts that you may automate": "*.example.org"}
        )
        assert (code, "there is no key of captchaai yet" in shown) == (1, True), shown
        assert not OURS.exists()

        answers = {"Hosts that you may automate": "Example.com www.example.org", "API key of captchaai": sandbox.key}
        code, shown = on_a_terminal(command, answers)
        assert code == 0, f"{shown}\n{journal()[-4000:]}"
        assert sandbox.key not in shown
        assert 'allowed_hosts = [\n    "example.com",\n    "www.example.org",\n]' in OURS.read_text(), OURS.read_text()
        wait_solved(drop("typed", 2))
        step("hosts and key are asked for, and the key is not shown")

        code, shown = on_a_terminal(command, {"Enter keeps the stored one": ""})
        assert (code, "the key of captchaai stays as it is" in shown, "Hosts" in shown) == (0, True, False), shown
        step("asked again, Enter keeps the key, and the hosts are known")

        bad = ETC / "conf.d" / "20-site.toml"
        bad.write_text("[daemon]\nworkers = 'many'\nmin_worker = 1\n")
        has(setup(code=1), f"{bad}:2: daemon.workers", f"{bad}:3: daemon.min_worker: unknown key")
        assert show("captchad", "SubState") == "running"
        before = OURS.read_bytes()
        bad.write_text('[policy]\nallowed_hosts = ["example.net"]\n')
        said = setup("--allow-host", "example.org", code=1)
        has(said, f"{bad}:2: policy.allowed_hosts: goes over {OURS}", f"{OURS} is as it was again: nothing was changed")
        assert OURS.read_bytes() == before
        bad.unlink()
        step("a bad configuration is named whole, and nothing is started")

        run("systemctl", "stop", "captchad")
        bad.write_text('[daemon]\nstate_dir = "/proc/none"\n')  # valid, and impossible: the last good one runs
        has(setup("--yes"), "captchad  running", "daemon.state_dir: /proc/none cannot be made")
        bad.unlink()
        run("systemctl", "stop", "captchad")
        drop_in("ExecStart=\nExecStart=/bin/false\n[Unit]\nStartLimitBurst=2\n")
        for _ in range(3):  # systemd would start it no more, but for setup
            said = setup("--yes", code=1)
        has(said, "Main process exited", "hint: journalctl -u captchad.service")
        drop_in("")
        assert "captchad  running" in setup()
        step("a start that fails says why, and one that is mended works, however often it had failed")
        no_secret_is_told(sandbox)


def by_account(sandbox: Sandbox) -> list[int]:
    """How many captchas each account was charged with."""
    accounts = [each["account"] for each in sandbox.captchas()]
    return [accounts.count(0), accounts.count(1)]


def all_well(ids: list[str]) -> None:
    wait_solved(ids)
    wrong = [found for each in ids if (found := result(each)) and (found["attempts"], found["charges"]) != (1, 1)]
    assert wrong == []
    found = status()
    assert found["queue"]["unknown_submits"] == 0, found["queue"]
    assert found["providers"][0]["captchas_without_key"] == 0, found["providers"]


@scenario
def a_new_key_by_restart_costs_no_captcha(directory: Path) -> None:
    lay_out()
    with Sandbox(scenario=SOLVES) as sandbox:
        setup("--allow-host", "example.com", "--provider-url", sandbox.url, "--plain", key=KEYS[0])
        assert files(VAULT) == {"captchaai.key": "600"}
        sandbox.set_scenario(HOLDS)
        old = drop("old", 20)
        eventually(lambda: by_account(sandbox) == [20, 0], 30)
        before = main_pid("captchad")

        said = setup(key=KEYS[1])
        assert "keep the present key of captchaai as captchaai.key.previous" in said
        assert main_pid("captchad") != before
        assert files(VAULT) == {"captchaai.key.cred": "600", "captchaai.key.previous.cred": "600"}
        assert (status()["queue"]["in_flight"], status()["providers"][0]["old_keys"]) == (20, 1), status()
        step("a new key, encrypted where the old one was not, with 20 captchas under way that have the old one")
        sandbox.set_scenario(SOLVES)
        all_well(old + drop("new", 20))
        assert by_account(sandbox) == [20, 20]
        assert charges(sandbox) == 40
        step("the old ones ended on the old account, the new ones on the new")

        sandbox.set_scenario(HOLDS)
        more = drop("more", 10)
        eventually(lambda: by_account(sandbox) == [20, 30], 30)
        pid = main_pid("captchad")
        said = setup("--no-start", key=KEYS[0])  # back again, encrypted to encrypted
        has(said, "not started: systemctl enable captchad.service, then systemctl restart captchad.service")
        assert main_pid("captchad") == pid
        has(setup(), "the key of captchaai stays as it is", "restart captchad.service")
        assert main_pid("captchad") != pid
        sandbox.set_scenario(SOLVES)
        all_well(more + drop("back", 5))
        assert by_account(sandbox) == [25, 30]
        step("and back, in two steps")

        Path("/var/lib/systemd/credential.secret").unlink()
        has(setup("--yes", code=1), "the stored key of captchaai cannot be read", "hint: run setup again with the key")
        setup(key=KEYS[0])
        assert files(VAULT) == {"captchaai.key.cred": "600"}
        run("systemctl", "restart", "captchad")
        all_well(drop("another-host-key", 3))
        assert by_account(sandbox) == [28, 30]
        setup("--no-start", key=KEYS[1])
        setup(key=KEYS[0])
        step("a host key that is lost is made good by giving the key again")

        # The present key is refused by now, so captchas under way can only have the one before it.
        sandbox.set_scenario("".join(f'[[key]]\nkey = "{each}"\n' for each in KEYS[1:]))
        has(setup("--plain", "--no-start", key=KEYS[2]), "keep the key before the refused one of captchaai")
        assert (VAULT / "captchaai.key.previous").read_text() == f"{KEYS[1]}\n"
        sandbox.set_scenario(SOLVES)
        setup(key=KEYS[0])
        step("a key that never worked does not push the one before it out")

        sandbox.set_scenario(HOLDS)
        before, old = by_account(sandbox), drop("before-the-move", 5)
        eventually(lambda: by_account(sandbox) == [before[0] + 5, before[1]], 30)
        with Sandbox(scenario=f"seed = 2\n{SOLVES}") as there:
            has(setup("--provider-url", there.url), "provider captchaai takes the key, balance")
            assert f'url = "{there.url}"' in OURS.read_text()
            new = drop("after-the-move", 5)
            wait_solved(new)
            sandbox.set_scenario(SOLVES)
            all_well(old + new)
            assert by_account(there) == [5, 0]
            assert by_account(sandbox) == [before[0] + 5, before[1]]
            setup("--provider-url", sandbox.url)
        step("a provider that moves: what is under way ends where it was submitted")

        other = DROP_IN.with_name("zz.conf")
        other.write_text("[Service]\nLoadCredential=captchaai.key:/etc/captchad/elsewhere\n")
        run("systemctl", "daemon-reload")
        has(setup(key=KEYS[1], code=1), "the unit takes captchaai.key from /etc/captchad/elsewhere, not from")
        other.unlink()
        run("systemctl", "daemon-reload")
        step("a drop-in of the operator's that has the last word is named")

        file = ETC / "by-file.key"
        run("install", "--mode=640", "--group=captchad", "/dev/null", str(file))
        file.write_text(KEYS[0])
        text = OURS.read_text()
        OURS.write_text(re.sub('api_key_credential = ".*"', f'api_key_file = "{file}"', text))
        run("systemctl", "reload", "captchad")
        sandbox.set_scenario(HOLDS)
        before, old = main_pid("captchad"), drop("filed", 10)
        eventually(lambda: by_account(sandbox) == [43, 30], 30)
        file.write_text(KEYS[1])
        run("systemctl", "reload", "captchad")
        sandbox.set_scenario(SOLVES)
        all_well(old + drop("refiled", 5))
        assert by_account(sandbox) == [43, 35]
        assert main_pid("captchad") == before
        assert "has its key in" in setup("--provider", "captchaai", key=KEYS[0], code=1)
        step("a key file changes by a reload")
        no_secret_is_told(sandbox)
