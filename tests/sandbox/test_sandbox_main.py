"""The process: its line, its signals, its exit status, TLS."""

import os
import signal
import subprocess
import sys
import time

import pytest
import requests

from tests.sandbox.talk import Client
from tests.support.sandbox import Sandbox

COMMAND = [sys.executable, "-m", "captchad.provider.sandbox"]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_even_with_hung_connections(number):
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    url = line.strip().removeprefix("captchad sandbox: listening on ")
    assert line == f"captchad sandbox: listening on {url}\n"
    requests.post(f"{url}/_sandbox/scenario", data=b"[[rule]]\nfault = 'hang'\n", timeout=30).raise_for_status()
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{url}/in.php", timeout=0.2)

    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")


def test_a_bad_scenario(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("sed = 1\n")
    done = run("--scenario", str(path))

    assert done.returncode == 78
    assert done.stderr == f"{path}:0: sed: unknown key (did you mean 'seed'?)\n"


def test_a_scenario_that_cannot_be_read(tmp_path):
    done = run("--scenario", str(tmp_path))

    assert (done.returncode, done.stderr) == (78, f"{tmp_path}:0: scenario: cannot be read: Is a directory\n")


def test_a_port_that_is_taken(process):
    done = run("--port", str(process.port))

    assert (done.returncode, done.stderr) == (
        69,
        f"captchad sandbox: 127.0.0.1:{process.port}: Address already in use\n",
    )


def test_a_certificate_that_is_none(tmp_path):
    assert run("--tls-cert", "none", "--tls-key", "none").returncode == 78
    assert run("--tls-cert", "none").returncode == 2


def test_other_hosts():
    process = subprocess.Popen([*COMMAND, "--host", "::1"], stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().rpartition(" ")[2].strip()
    assert url.startswith("http://[::1]:")
    assert requests.get(f"{url}/_sandbox/totals", timeout=30).status_code == 200
    process.terminate()
    process.communicate(timeout=30)


def test_the_same_port_again_is_a_provider_that_has_forgotten():
    with Sandbox() as first:
        client = Client(first)
        captcha_id = client.create()
        port = first.port
        client.session.close()
    with Sandbox(port=port) as second:
        client = Client(second)
        assert client.res("get", captcha_id) == "ERROR_WRONG_CAPTCHA_ID"
        assert int(client.create()) > int(captcha_id)
        client.session.close()


def test_leaving_the_block_kills_it():
    with Sandbox() as sandbox:
        pid = sandbox.pid
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError):
        _ = sandbox.pid


def test_a_start_that_fails_says_why():
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="unknown key"):
        Sandbox(scenario="sed = 1\n").start()
    assert time.monotonic() - start < 25
