"""What is in the Debian package and in the wheel. tests/system/package.py installs them."""

import os
import re
import shutil
import subprocess
import tomllib
import zipfile
from itertools import pairwise

import pytest

from captchad import __version__
from captchad.config.load import load
from captchad.model.errors import ConfigError
from tests.support.systemd import ROOT

BUILT = pytest.mark.debian("debhelper", "dh-python")


def dpkg_deb(*arguments: object) -> str:
    return subprocess.run(["dpkg-deb", *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@BUILT
def test_the_package_has_everything_in_its_place(deb):
    rows = [line.split(maxsplit=5) for line in dpkg_deb("--contents", deb).splitlines()]
    files = {row[5].removeprefix("."): (row[0], row[1]) for row in rows if row[0].startswith("-")}

    assert {owner for _, owner in files.values()} == {"root/root"}
    assert {mode for path, (mode, _) in files.items() if path.startswith("/usr/bin/")} == {"-rwxr-xr-x"}
    assert {mode for path, (mode, _) in files.items() if not path.startswith("/usr/bin/")} == {"-rw-r--r--"}
    modules = {f"/usr/lib/python3/dist-packages/{path.relative_to(ROOT)}" for path in ROOT.glob("captchad/**/*.py")}
    assert modules == {path for path in files if path.startswith("/usr/lib/python3/")}
    units = {
        f"/lib/systemd/system/{path.name}" for kind in ("service", "timer") for path in ROOT.glob(f"systemd/*.{kind}")
    }
    assert units == {path for path in files if path.startswith("/lib/systemd/")}
    assert {
        "/etc/captchad/captchad.toml",
        "/usr/bin/captchactl",
        "/usr/bin/captchad",
        "/usr/lib/systemd/user/captchad.service",
        "/usr/lib/sysusers.d/captchad.conf",
        "/usr/lib/tmpfiles.d/captchad.conf",
        "/usr/share/doc/captchad/CHANGELOG.md",
        "/usr/share/doc/captchad/copyright",
        "/usr/share/doc/captchad/examples/captchad.toml",
        "/usr/share/doc/captchad/operations.md",
    } <= set(files)


@BUILT
def test_the_package_says_what_it_is(deb):
    fields = dict(line.split(": ", 1) for line in dpkg_deb("--field", deb).splitlines() if re.match(r"\w", line))

    assert (fields["Package"], fields["Architecture"]) == ("captchad", "all")
    assert re.split(r"[~+]snapshot", fields["Version"])[0].replace("~", "") == __version__.replace(".dev", "dev")
    depends = fields["Depends"].split(", ")
    for name in ("python3 (>= 3.11)", "python3-psutil", "python3-requests", "python3-sdnotify", "python3-tomli-w"):
        assert name in depends
    assert dpkg_deb("--info", deb, "conffiles") == "/etc/captchad/captchad.toml\n"


@pytest.fixture
def clone(tmp_path):
    """A repository with a version, in the first days of 1971."""
    tree = tmp_path / "clone"
    for name in ("debian", "captchad", "tests"):
        (tree / name).mkdir(parents=True)
    shutil.copy(ROOT / "debian" / "version", tree / "debian")
    (tree / "captchad" / "__init__.py").write_text('__version__ = "0.2.0rc1"\n')
    return Clone(tree)


class Clone:
    def __init__(self, tree):
        self.tree, self.days = tree, 365
        self.git("init", "--quiet")

    def git(self, *arguments):
        date = f"@{self.days * 86400} +0000"
        who = {f"GIT_{kind}_{key}": "a" for kind in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        who |= {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        subprocess.run(["git", *arguments], cwd=self.tree, env=os.environ | who, check=True)

    def commit(self):
        self.days += 1
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "one more")

    def version(self):
        command = ["debian/version", "captchad"]
        return subprocess.run(command, cwd=self.tree, capture_output=True, text=True, check=True).stdout.strip()


@BUILT
def test_each_commit_of_a_clone_is_an_update(clone):
    assert clone.version() == "0.2.0~rc1"
    clone.commit()
    versions = [clone.version()]
    assert re.fullmatch(r"0\.2\.0~rc1~snapshot19710102000000\.[0-9a-f]+", versions[0])
    (clone.tree / "tests" / "new").touch()
    clone.commit()
    versions.append(clone.version())
    clone.git("tag", "v0.2.0rc1")
    versions.append(clone.version())
    assert versions[-1] == "0.2.0~rc1"
    clone.commit()
    versions.append(clone.version())
    (clone.tree / "tests" / "new").write_text("no part of the package")
    assert clone.version() == versions[-1]
    (clone.tree / "captchad" / "__init__.py").write_text('__version__ = "0.2.0rc1"\n# a change\n')
    versions.append(clone.version())
    assert versions[-1].endswith(".dirty")
    clone.git("checkout", "--quiet", ".")
    (clone.tree / "captchad" / "__init__.py").write_text('__version__ = "0.2.0"\n')
    clone.commit()
    versions.append(clone.version())

    for old, new in pairwise(versions):
        assert subprocess.run(["dpkg", "--compare-versions", old, "lt", new], check=False).returncode == 0, versions


@BUILT
def test_the_packages_documents_lead_to_one_another(deb, tmp_path):
    dpkg_deb("--extract", deb, tmp_path)
    documents = list((tmp_path / "usr" / "share" / "doc" / "captchad").glob("*.md"))
    links = [
        (path, target)
        for path in documents
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
        if ":" not in target
    ]

    assert len(links) > 20
    assert [f"{path.name}: {target}" for path, target in links if not (path.parent / target).exists()] == []


@BUILT
def test_the_packages_units_run_the_packages_programs(deb, tmp_path):
    dpkg_deb("--extract", deb, tmp_path)
    found = [line for path in tmp_path.rglob("captchad*.service") for line in path.read_text().splitlines()]
    programs = {re.split(r"[= ]", line)[1] for line in found if re.match(r"Exec\w+=", line)}

    assert programs == {"/usr/bin/captchad", "/usr/bin/captchactl", "/usr/bin/env"}


def test_the_wheel_has_what_install_lays_out(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    paths = [path for name in ("share", "systemd") for path in (ROOT / name).rglob("*") if path.is_file()]
    wanted = {f"captchad/files/{path.relative_to(ROOT)}" for path in (*paths, ROOT / "etc" / "default.toml")}

    assert wanted == {name for name in held if name.startswith("captchad/files/")}


# --- make install


@pytest.fixture
def make_install(tmp_path):
    """`make install` with a Python whose pip fails; what that Python was called with is in `calls`."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n[ "$2" = venv ] || {{ echo "no network" >&2; exit 1; }}\n'
        f'for last; do :; done; mkdir -p "$last/bin" && cp {python} "$last/bin/python"\n'
    )
    python.chmod(0o755)

    def install(directory, state=""):
        systemctl = tmp_path / "programs" / "systemctl"
        systemctl.parent.mkdir(exist_ok=True)
        systemctl.write_text(f"#!/bin/sh\necho {state}\n")
        systemctl.chmod(0o755)
        command = ["make", "--no-print-directory", "install", f"VENV_DIR={directory}", f"SYSTEM_PYTHON={python}"]
        environ = os.environ | {"PATH": f"{systemctl.parent}:{os.environ['PATH']}"}
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    return install


@pytest.mark.root
def test_make_install_touches_no_directory_that_is_not_its_own(make_install, tmp_path):
    local = tmp_path / "local"
    (local / "bin").mkdir(parents=True)
    (local / "bin" / "captchactl").touch()
    a_file = tmp_path / "file"
    a_file.touch()

    for path in (local, a_file):
        done = make_install(path)
        assert done.returncode != 0
        assert f"{path} is no virtual environment with captchad" in done.stderr
    assert (local / "bin" / "captchactl").exists()
    assert not (tmp_path / "calls").exists()


@pytest.mark.root
def test_make_install_keeps_what_was_there_when_pip_fails(make_install, tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "captchactl").write_text("old")

    assert "no network" in make_install(venv).stderr
    assert (venv / "bin" / "captchactl").read_text() == "old"
    calls = (tmp_path / "calls").read_text()
    assert "pip" in calls
    assert str(venv) not in calls


@pytest.mark.root
@pytest.mark.parametrize("state", ["active", "activating", "deactivating", "reloading"])
def test_make_install_wants_captchad_to_be_stopped(make_install, tmp_path, state):
    done = make_install(tmp_path / "venv", state)

    assert done.returncode != 0
    assert "first: systemctl stop captchad" in done.stderr
    assert not (tmp_path / "calls").exists()


def test_the_configuration_that_is_installed_lacks_the_hosts_alone(tmp_path):
    text = (ROOT / "etc" / "default.toml").read_text()
    path = tmp_path / "captchad.toml"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [problem.key for problem in caught.value.problems] == ["policy.allowed_hosts"]

    drop_in = tmp_path / "conf.d" / "10-site.toml"
    drop_in.parent.mkdir()
    # The lines that its comment proposes.
    drop_in.write_text("".join(re.findall(r"(?m)^#     (.*\n)", text)))
    assert load(path).config.policy.allowed_hosts == tuple(
        tomllib.loads(drop_in.read_text())["policy"]["allowed_hosts"]
    )


@pytest.mark.parametrize(
    ("command", "program", "foreign"),
    [
        ("{bin}/captchad run", "{bin}/captchad", True),
        ("-/usr/bin/nice -n 5 \\\n  {bin}/captchad run", "{bin}/captchad", True),
        ("/usr/bin/setpriv --reuid captchad --regid captchad {bin}/captchad run", "{bin}/captchad", True),
        ("/usr/bin/env -C {bin}/state/captchad {bin}/captchad run", "{bin}/captchad", True),
        ("{bin}/captchad-wrapper run", "{bin}/captchad-wrapper", True),
        ("{bin}/captchad-wrapper -m captchad.cli.captchad run", "{bin}/captchad-wrapper", True),
        ("/usr/bin/nice {bin}/gone/captchad run", "{bin}/gone/captchad", False),
        ("/gone/captchad run", "/gone/captchad", False),
    ],
)
def test_whose_captchad_the_machines_own_unit_runs(tmp_path, command, program, foreign):
    for name in ("captchad", "captchad-wrapper"):
        (tmp_path / name).touch(0o755)
    (tmp_path / "state" / "captchad").mkdir(parents=True)
    unit = tmp_path / "captchad.service"
    unit.write_text(f"[Service]\nExecStart={command.format(bin=tmp_path)}\n")
    script = (
        f'set -e; . ./common.sh; machines_unit={unit}; foreign_unit && echo "foreign $program" || echo "ours $program"'
    )

    done = subprocess.run(["dash", "-c", script], cwd=ROOT / "debian", capture_output=True, text=True, check=True)

    assert done.stdout == f"{'foreign' if foreign else 'ours'} {program.format(bin=tmp_path)}\n"
