"""`make bench-supervisor` in small: captchad is measured by it, and what a supervisor does is seen."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.supervisors.contender import PROGRAMS, Contender, Kind, Place
from benchmarks.supervisors.contenders import CONTENDERS
from benchmarks.supervisors.measure import Figures, Scale, Watched, measure
from benchmarks.supervisors.processes import is_at_work
from benchmarks.supervisors.report import report
from tests.support.benchmark import run_module

#: Forks workers, and replaces the dead after a while. A careless one takes a second worker down with the first.
SUPERVISOR = """
import os, signal, sys, time
from note import begin

number, delay_s, careless = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "careless"

def work():
    pid = os.fork()
    if pid:
        return pid
    try:
        begin()
        while True:
            signal.pause()
    finally:
        os._exit(1)

workers = [work() for _ in range(number)]
while True:
    dead, _ = os.wait()
    workers.remove(dead)
    if careless:
        careless = False
        os.kill(workers[-1], signal.SIGKILL)
    time.sleep(delay_s)
    workers.append(work())
"""

DELAY_S = 0.3


class Careful(Contender):
    title = "careful"

    def launch(self):
        command = [sys.executable, "-c", SUPERVISOR, str(self.place.workers), str(DELAY_S), self.title]
        return self.run(command, {"PYTHONPATH": str(PROGRAMS)})


class Careless(Careful):
    title = "careless"


class Absent(Contender):
    title = "absent"

    def launch(self):
        return self.run([sys.executable, "-c", "raise SystemExit('has no workers')"])


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, Path(sys.executable), workers=3, url="", key="")


def test_captchad_is_measured_and_nothing_is_left(tmp_path, short_path):
    figures_file = tmp_path / "figures.json"
    temporary = short_path / "temporary"
    temporary.mkdir()
    options = ["--scale", "tiny", "--no-install", "--only", "captchad", "--json", str(figures_file)]
    printed = run_module("supervisors", *options, TMPDIR=str(temporary))
    measured = json.loads(figures_file.read_text())
    assert measured["failures"] == {}
    assert len(measured["reference_s"]) == 2
    captchad = measured["figures"]["captchad"]
    assert (len(captchad["kill_s"]), captchad["lost_kills"], captchad["disturbed"]) == (2, 0, 0)
    assert (len(captchad["stall_s"]), captchad["never"]) == (1, False)
    assert captchad["stall_s"][0] > 1.0  # the limit, less a heartbeat: a worker that is only slow would be replaced
    assert captchad["processes"] >= 9  # the parent and eight workers
    assert captchad["pss_mb"] > 1.0
    assert captchad["idle_percent"] > 0.0
    assert captchad["boot_starts"] >= 8
    assert captchad["boot_survived"] is True
    assert "| captchad |" in printed
    assert list(temporary.iterdir()) == []
    assert [each.pid for each in psutil.process_iter() if runs_below(each, temporary)] == []


def runs_below(process: psutil.Process, directory: Path) -> bool:
    try:
        return any(str(directory) in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.parametrize(("contender", "disturbed"), [(Careful, 0), (Careless, 1)])
def test_kills_are_timed_and_disturbed_siblings_counted(place, contender, disturbed):
    figures = Figures()
    with contender(place, Kind.DEFAULT) as running:
        running.wait_ready()
        watched = Watched(running, figures)
        watched.kill_one()
        watched.check_siblings()
        assert figures.disturbed == disturbed
        assert figures.lost_kills == 0
        assert all(taken >= DELAY_S for taken in figures.kill_s)
        pids = running.pids()
        assert len(pids) >= place.workers
    assert [pid for pid in pids if is_at_work(pid)] == []


def test_a_stopped_worker_that_is_not_replaced_is_found_once(place):
    figures = Figures()
    with Careful(place, Kind.LIMITED) as running:
        running.wait_ready()
        watched = Watched(running, figures)
        watched.stop_one(limit_s=0.2)
        assert (figures.never, figures.stall_s) == (True, [])
        assert len(running.workers()) == place.workers - 1  # stopped is not at work
        watched.stop_one(limit_s=0.2)
        assert len(running.workers()) == place.workers - 1


def test_one_that_fails_is_given_up_and_the_others_are_measured(place):
    scale = Scale(kills=0, stalls=0, never_s=1.0, idle_s=0.1, boot_s=0.5, spread_s=0.0, settle_s=0.0)
    results = measure(place, [Absent, Careful], scale, lambda text: None)
    assert list(results.failures) == ["absent"]
    assert "has no workers" in results.failures["absent"]
    careful = results.figures["careful"]
    assert careful.processes == place.workers + 1
    assert careful.pss_mb is not None
    assert (careful.boot_survived, careful.boot_starts is not None and careful.boot_starts >= 1) == (True, True)
    text = report(results, scale)
    assert "| careful |" in text
    assert "| absent |" not in text


def test_every_contender_has_its_own_name():
    assert all(each.title == name for name, each in CONTENDERS.items())
