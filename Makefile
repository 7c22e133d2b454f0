# Each target sets up what it needs; `make demo` on a fresh clone is enough.
#
#   make demo        the main job, live, against the practice provider (no account needed)
#   make test        all tests but the slow ones; as root it installs the Debian packages that some of them need
#   make check       formatter, linter, strict types, import directions
#   make chaos       the chaos test with 20 seeds, one line each
#   make days        simulated days with an outage of each kind: the table of docs/outages.md, some minutes
#   make mutants     how many of a thousand changes of the supervision's core its tests notice; minutes
#   make sweep       the whole crash sweep, on all processors: over 100,000 states of the disk, and the mutants
#   make bench       the benchmarks of docs/benchmarks.md
#   make bench-calls processor time of an HTTP call, captchad's transport beside others
#   make bench-inflight thousands of captchas at once, and the most solves a second, with the practice provider
#   make bench-queue the queue against its peers, which it installs into .venv-bench; as root with Debian's packages
#   make bench-supervisor captchad's supervision beside its peers, which it installs into .venv-bench; ten minutes
#   make bench-delivery  how long answers lie ready before they are fetched, and by how many calls; four minutes
#   make test-slow   the long form of the sweeps
#   make deb         captchad's Debian package, in dist/; as root it installs what that takes
#   make install     as root, without the package: captchad for systemd, as docs/operations.md says
#   make pages       what is made from docs/man/, the schema and the programs' options: reference, man pages, completions
#   make clean       remove the virtual environments

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := -m pip --disable-pip-version-check --quiet

# Where `make install` makes captchad's virtual environment. The daemon's user must be able to read the Python, too: none
# below /root. `captchactl install` refuses such places, and says why.
VENV_DIR      ?= /opt/captchad
SYSTEM_PYTHON ?= /usr/bin/python3

# Many tests wait for real processes more than they compute. A process of its own for each processor.
PARALLEL ?= --numprocesses auto --dist worksteal

.DELETE_ON_ERROR:
.PHONY: demo test test-slow chaos days mutants sweep check bench bench-calls bench-inflight bench-queue bench-supervisor bench-delivery deb install pages clean debian

demo: $(VENV)/.run
	$(BIN)/captchad demo

test: $(VENV)/.dev debian
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(PYTEST_ARGS)

test-slow: $(VENV)/.dev debian
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# With -s, each seed says how it went.
chaos: $(VENV)/.dev
	CAPTCHAD_CHAOS_SEEDS=20 $(BIN)/python -m pytest -s tests/e2e/test_chaos.py $(PYTEST_ARGS)

days: $(VENV)/.dev
	$(BIN)/python -m tests.provider_side.days

sweep: $(VENV)/.dev
	$(BIN)/python -m tests.crash.sweep

mutants: $(VENV)/.mutants
	$(BIN)/python -m tests.supervisor.mutants

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_imports.py

bench: $(VENV)/.run
	$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

bench-calls: $(VENV)/.run
	$(BIN)/python -m benchmarks.calls $(BENCH_ARGS)

bench-inflight: $(VENV)/.run
	$(BIN)/python -m benchmarks.inflight $(BENCH_ARGS)

bench-queue: $(VENV)/.run
	$(BIN)/python -m benchmarks.queue $(BENCH_ARGS)

bench-supervisor: $(VENV)/.run
	$(BIN)/python -m benchmarks.supervisors $(BENCH_ARGS)

bench-delivery: $(VENV)/.run
	$(BIN)/python -m benchmarks.delivery $(BENCH_ARGS)

deb:
	@$(PYTHON) tests/support/debian.py debhelper dh-python
	@debian/build-deb dist

# Old code must not run on new files: captchad is stopped before. All that may fail for want of a network comes before the
# virtual environment that is there is given up; and what is no virtual environment of captchad's is not touched.
install:
	@[ "$$(id -u)" = 0 ] || { echo 'make install needs root' >&2; exit 1; }
	@[ -z "$$(ls -A '$(VENV_DIR)' 2>&1)" ] || [ ! -e '$(VENV_DIR)' ] || \
	    { [ -e '$(VENV_DIR)/pyvenv.cfg' ] && [ -e '$(VENV_DIR)/bin/captchactl' ]; } || \
	    { echo '$(VENV_DIR) is no virtual environment with captchad: empty it, or name another, VENV_DIR=…' >&2; exit 1; }
	@case "$$(systemctl show --property ActiveState --value captchad 2>/dev/null)" in ''|inactive|failed) ;; \
	    *) echo 'first: systemctl stop captchad' >&2; exit 1;; esac
	umask 022 && place=$$(mktemp -d) && trap 'rm -rf "$$place"' EXIT && \
	    $(SYSTEM_PYTHON) -m venv "$$place/venv" && "$$place/venv/bin/python" $(PIP) wheel --wheel-dir "$$place" . && \
	    $(SYSTEM_PYTHON) -m venv --clear '$(VENV_DIR)' && \
	    '$(VENV_DIR)/bin/python' $(PIP) install --no-index --find-links "$$place" captchad
	'$(VENV_DIR)/bin/captchactl' install

pages: $(VENV)/.dev
	@$(PYTHON) tests/support/debian.py go-md2man
	$(BIN)/python -m captchad.config.reference >docs/captchad.toml.md
	$(BIN)/python -m captchad.config.reference example >etc/captchad.toml
	$(BIN)/python -m docs.pages

debian:
	@$(PYTHON) tests/support/debian.py

clean:
	rm -rf $(VENV) .venv-bench

# The stamps: captchad with what it needs to run, then the tools of `make test` and `make check`.
$(VENV)/.run: pyproject.toml | $(BIN)/pip
	$(BIN)/python $(PIP) install --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	$(BIN)/python $(PIP) install --editable '.[dev]'
	@touch $@

# Only `make mutants` needs it, and it brings a lot.
$(VENV)/.mutants: $(VENV)/.dev
	$(BIN)/python $(PIP) install 'mutmut>=3.8,<4'
	@touch $@

# A virtual environment that is half made has no pip, and is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'captchad needs Python 3.11 or later; name one: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -q update && \
	      DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=500 install --yes python3-venv; } || \
	    { echo 'Python cannot make virtual environments here; on Debian: sudo apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
