# "make help" lists the targets.

PYTHON ?= python3
# The virtual environment that the targets work in.
VENV ?= .venv
# Options of the relay for "make run", of the benchmark for "make bench" and "make bench-attacks",
# or of the example for "make cluster", e.g. ARGS='--token secret'.
ARGS ?=
# Where Python keeps no compiled modules, each process that a test starts compiles the relay again.
unexport PYTHONDONTWRITEBYTECODE
# Options and paths for pytest, e.g. PYTEST_ARGS='-x tests/relay/test_router.py'. With them the
# tests run in a single process, so that -s and --pdb work.
PYTEST_ARGS ?=
NPM ?= npm
# How long "make soak", "make soak-acebase" and "make fuzz" (each of its targets) run.
SECONDS ?= 60
SEED ?=
# How many connections "make soak-cuts" and "make soak-peer-cuts" cut.
CUTS ?= 1000
TARGET ?=
# Of the npm package acebase, for "make test-acebase-versions".
VERSIONS ?= 1.12.3 1.18.0 1.25.2 latest

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
METADATA := setup.cfg setup.py pyproject.toml src/acebase_ipc/_speedups.c \
    $(wildcard src/twisted/plugins/*.py)
# For the environments of "make test-pythons" and "make test-trunk".
VENVS := build/venvs
ACEBASE := tests/acebase
CLUSTER := examples/cluster

# Documents with these directives or roles need Sphinx ("make docs"); docutils checks all others.
SPHINX := ^\.\. (toctree|auto|literalinclude|include)|:(class|func|doc|ref):`

# npm writes this file when it installs: it lists what "npm ci" installed.
NODE_MODULES := $(ACEBASE)/node_modules/.package-lock.json

# A run of all tests uses one process more than there are cores, since many tests wait for others,
# and has to cover the code. Tests of one file stay in one process: they may share a relay. In the
# order of their paths, the slow files come early; pytest-xdist would begin with the files of many
# short tests.
COVERAGE := --cov --cov-report=term-missing:skip-covered
ifneq ($(strip $(PYTEST_ARGS)),)
COVERAGE += --cov-fail-under=0
else
PARALLEL = --numprocesses=$(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) \
    --dist=loadfile --no-loadscope-reorder
endif

# The minor versions of Python in setup.cfg's classifiers, and the first interpreter found of each.
MINORS = $(shell sed -n 's/^ *Programming Language :: Python :: 3\.//p' setup.cfg)
PYTHONS ?= $(shell for minor in $(MINORS); do \
    for python in python3.$$minor $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.$$minor.*/bin/python3; do \
        if $$python -c 'import venv' 2> /dev/null; then echo $$python; break; fi; \
    done; \
done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run cluster test test-pythons test-trunk test-images lint docs linkcheck package deb \
        bench bench-acebase bench-attacks test-acebase test-acebase-versions soak soak-acebase \
        soak-cuts soak-peer-cuts \
        conformance fuzz fuzz-native screenshots node-modules clean \
        docs/limits.rst docs/events.rst docs/metrics.rst docs/options.rst contrib/acebase-ipc.toml

help: ## Show this list
	@sed -n 's/^\([a-z][a-z./-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 30

run: $(VENV)/.run ## Install into .venv and start the relay (ARGS='--help' shows its options)
	@echo "The status page: http://127.0.0.1:9164"
	@exec $(BIN)/acebase-ipc serve --admin 9164 $(ARGS)

cluster: $(CLUSTER)/node_modules/.package-lock.json ## Run an AceBase cluster on the relay of "make run" in another terminal
	@exec node $(CLUSTER)/cluster.js $(ARGS)

# The driver of the browser runs in greenlets, as other tests do, too: it has processes of its own.
test: $(VENV)/.test node-modules ## Run the tests and measure their coverage (PYTEST_ARGS='...' selects some)
ifeq ($(strip $(PYTEST_ARGS)),)
	$(BIN)/python -m pytest $(PARALLEL) tests/browser
endif
	$(BIN)/python -m pytest -m "not packaging and not systems" $(if $(strip $(PYTEST_ARGS)),,--ignore=tests/browser) \
	    $(PARALLEL) $(COVERAGE) $(PYTEST_ARGS)

test-pythons: ## Run the tests with each Python of setup.cfg that this machine has
	@test -n "$(strip $(PYTHONS))" || { echo >&2 "No Python 3.x is found, x one of: $(MINORS)."; exit 1; }
	@for python in $(PYTHONS); do \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit; \
	    $(MAKE) --no-print-directory test VENV=$(VENVS)/$$version PYTHON=$$python COVERAGE= || exit; \
	done
	@echo "Tested with: $(PYTHONS)"

test-trunk: ## Run the tests with pre-releases of Twisted and Autobahn, and with all lower bounds
	@$(MAKE) --no-print-directory $(VENVS)/newest/.test VENV=$(VENVS)/newest
	@$(VENVS)/newest/bin/python -m pip --disable-pip-version-check --quiet \
	    install --pre --upgrade Twisted autobahn
	@$(MAKE) --no-print-directory test VENV=$(VENVS)/newest COVERAGE=
	@mkdir -p $(VENVS)
	@sed -n '/^install_requires/,/^$$/ s/^ *\(.*[^ ]\) *>= */\1==/p' setup.cfg > $(VENVS)/oldest.txt
	@PIP_CONSTRAINT=$(VENVS)/oldest.txt $(MAKE) --no-print-directory test VENV=$(VENVS)/oldest COVERAGE=

lint: $(VENV)/.lint ## Check style, types, documents and news fragments
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --config-file= --cache-dir=.mypy_cache/program tests/typed_program.py
	@for document in $$(grep -LE '$(SPHINX)' *.rst docs/*.rst newsfragments/*.rst); do \
	    $(BIN)/python -m docutils --halt=warning $$document > /dev/null || exit; \
	done
	@.ci/check-news $(BIN)/towncrier

docs: $(VENV)/.docs ## Build the documentation as HTML into docs/_build/html
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet \
	    --doctree-dir docs/_build/doctrees docs docs/_build/html
	@echo "Built docs/_build/html/index.html"

linkcheck: $(VENV)/.docs ## Check the links of the documentation to other sites (needs the network)
	@$(BIN)/python -m sphinx -b linkcheck --quiet --doctree-dir docs/_build/doctrees docs docs/_build/linkcheck
	@echo "All links lead somewhere: docs/_build/linkcheck/output.txt"

package: $(VENV)/.test ## Build the wheel and run it in a new environment
	$(BIN)/python -m pytest -m packaging tests/packaging

deb: ## Build the Debian package for the release of Debian that this runs on, into dist/
	@contrib/debian/build-deb

test-images: $(VENV)/.test ## Build the image and the Debian package in new systems (as root; needs debootstrap, buildah)
	$(BIN)/python -m pytest -m systems --durations=0 tests/packaging

bench: $(VENV)/.bench ## Measure the relay against others, 25 minutes (ARGS='--quick' for 4)
	@$(BIN)/python -m bench.run $(ARGS)

bench-acebase: $(VENV)/.test node-modules ## Measure the writes and reads of real AceBase clusters, 15 minutes (ARGS='--quick' for half a minute)
	@$(BIN)/python -m bench.acebase $(ARGS)

bench-attacks: $(VENV)/.test ## Attack the relay and measure the others' round trips, 5 minutes (ARGS='--quick' for 2)
	@$(BIN)/python -m bench.attacks $(ARGS)

# These turn lock sessions on and off by themselves.
IN_BOTH_MODES := tests/acebase/test_lock_sessions.py tests/acebase/test_same_work.py
test-acebase: $(VENV)/.test node-modules ## Run the tests with AceBase with lock sessions and without, and 10,000 operations (SEED=...)
	$(BIN)/python -m pytest $(PARALLEL) tests/acebase
	ACEBASE_IPC_NO_LOCK_SESSIONS=1 $(BIN)/python -m pytest $(PARALLEL) tests/acebase \
	    $(IN_BOTH_MODES:%=--ignore=%)
	@$(BIN)/python -m tests.acebase.same_work $(if $(SEED),--seed $(SEED))

# Each version is installed in a directory of its own, with the oldest acebase-core that it accepts:
# 1.12.3 does not work with newer ones.
NPM_INSTALL = $(NPM) install --no-audit --no-fund --no-update-notifier --loglevel=error --prefix
test-acebase-versions: $(VENV)/.test node-modules ## Run a cluster of each of VERSIONS of the npm package acebase
	@for version in $(VERSIONS); do \
	    directory=$(CURDIR)/build/acebase/$$version; \
	    $(NPM_INSTALL) $$directory acebase@$$version ws@8 || exit; \
	    core=$$(node -p "require('$$directory/node_modules/acebase/package.json') \
	        .dependencies['acebase-core'].replace('^', '')") || exit; \
	    $(NPM_INSTALL) $$directory acebase-core@$$core || exit; \
	    TEST_ACEBASE=$$directory $(BIN)/python -m pytest \
	        $(IN_BOTH_MODES) tests/acebase/test_cluster.py || exit; \
	done

soak: $(VENV)/.test ## Run 200 misbehaving peers for SECONDS and account for every message (SEED=..., HAND_OVER=5, RESTART=5)
	@$(BIN)/python -m tests.soak.run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) \
	    $(if $(HAND_OVER),--hand-over $(HAND_OVER)) $(if $(RESTART),--restart $(RESTART))

soak-acebase: $(VENV)/.test node-modules ## Run real AceBase clusters for SECONDS, with lock sessions and without, and kill processes (SEED=...)
	@$(BIN)/python -m tests.soak.acebase --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

soak-cuts: $(VENV)/.test ## Cut the connections of clients CUTS times at any byte and account for every message (SEED=...)
	@$(BIN)/python -m tests.soak.cuts --cuts $(CUTS) $(if $(SEED),--seed $(SEED))

soak-peer-cuts: $(VENV)/.test node-modules ## Cut a Python peer of real AceBase processes CUTS times and count its events (SEED=...)
	@$(BIN)/python -m tests.acebase.peer_cuts --cuts $(CUTS) $(if $(SEED),--seed $(SEED))

conformance: $(VENV)/.run ## Run the Autobahn TestSuite against the WebSocket (needs Python 2.7)
	@$(BIN)/python -m tests.conformance.run

fuzz: $(VENV)/.fuzz ## Fuzz each target for SECONDS (TARGET=... selects one; SEED=...)
	@$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(TARGET)
ifeq ($(strip $(TARGET)),)
	@$(BIN)/python -m tests.fuzz.native --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))
endif

fuzz-native: $(VENV)/.test ## Fuzz the C extension for SECONDS with sanitizers (needs GCC; SEED=...)
	@$(BIN)/python -m tests.fuzz.native --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

docs/architecture.svg: docs/architecture.dot ## Draw the picture of the architecture (needs Graphviz)
	@command -v dot > /dev/null || { \
	    echo >&2 "The picture is drawn by Graphviz. On Debian and Ubuntu:  apt install graphviz"; \
	    exit 1; }
	@dot -Tsvg -o $@ $<

screenshots: $(VENV)/.test ## Take the screenshots of the status page, 5 minutes (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

docs/options.rst: $(VENV)/.run ## Generate the table of options from acebase_ipc.server.options
	@$(BIN)/python docs/generate_options.py > $@

contrib/acebase-ipc.toml: $(VENV)/.run ## Generate the commented configuration file from acebase_ipc.server.options
	@$(BIN)/python docs/generate_config.py > $@

docs/limits.rst: $(VENV)/.run ## Generate the table of limits from acebase_ipc.relay.limits
	@$(BIN)/python docs/generate_limits.py > $@

docs/events.rst: $(VENV)/.run ## Generate the table of log lines from acebase_ipc.relay.events
	@$(BIN)/python docs/generate_events.py > $@

docs/metrics.rst: $(VENV)/.run ## Generate the table of metrics from acebase_ipc.admin.families
	@$(BIN)/python docs/generate_metrics.py > $@

clean: ## Remove what make, the tests and the tools have created
	rm -rf $(VENV) build dist docs/_build .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf $(ACEBASE)/node_modules $(CLUSTER)/node_modules src/*.egg-info src/twisted/plugins/dropin.cache
	rm -f src/acebase_ipc/_speedups.*.so
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# With a PYTHON that is given, the environment is created again, unless it was created with it.
ifneq ($(origin PYTHON),file)
ifneq ($(shell cat $(VENV)/.created 2> /dev/null),$(PYTHON))
.PHONY: $(VENV)/.created
endif
endif

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo >&2 "acebase-ipc needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	    echo >&2 "Install one and name it:  make PYTHON=python3.12 $(MAKECMDGOALS)"; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo >&2 "'$(PYTHON)' cannot create virtual environments."; \
	    echo >&2 "On Debian and Ubuntu, this adds what is missing:  apt install python3-venv"; \
	    exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@echo $(PYTHON) > $@

# Editable: a changed source needs no new installation. "twistd --help" writes
# Twisted's cache of plugins, and shows that ours is found.
# pip says nothing for a minute or two, or too much: here it names what it downloads, in one line.
$(VENV)/.run: $(VENV)/.created $(METADATA)
	@printf "Downloading what acebase-ipc needs, which takes a minute or two:"
	@{ PYTHONUNBUFFERED=1 $(BIN)/python -m pip --disable-pip-version-check \
	    install --progress-bar=off --editable '.[cli]' 2>&1; echo "status $$?"; } \
	| tee $(VENV)/pip.log | while read -r word name rest; do \
	    case $$word in \
	        Collecting) printf ' %s' "$${name%%[!A-Za-z0-9._-]*}" ;; \
	        Installing) [ "$$name" != collected ] || printf '\nInstalling it ...\n' ;; \
	        status) [ "$$name" = 0 ] || { echo; cat >&2 $(VENV)/pip.log; exit 1; } ;; \
	    esac; \
	done
	@$(BIN)/twistd --help | grep acebase-ipc > /dev/null || { \
	    echo >&2 "twistd does not list acebase-ipc."; exit 1; }
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "Installing what the tests need ..."
	@$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@echo "Installing the linters ..."
	@$(PIP) install --editable '.[lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@echo "Installing Sphinx ..."
	@$(PIP) install --editable '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	@echo "Installing what the benchmark needs ..."
	@$(PIP) install --editable '.[bench]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.test
	@echo "Installing what fuzzing needs ..."
	@$(PIP) install --editable '.[fuzz]'
	@touch $@

# Without npm the tests that need AceBase are skipped; in CI that is an error.
node-modules:
	@if [ ! -f $(ACEBASE)/package-lock.json ]; then :; \
	elif command -v $(NPM) > /dev/null; then \
	    $(MAKE) --silent --no-print-directory $(NODE_MODULES); \
	elif [ -n "$$CI" ]; then \
	    echo >&2 "The tests with real AceBase processes need Node.js and npm."; exit 1; \
	else \
	    echo "npm is not installed: the tests with real AceBase processes are skipped."; \
	fi

%/node_modules/.package-lock.json: %/package-lock.json
	@command -v $(NPM) > /dev/null || { echo >&2 "AceBase needs Node.js and npm."; exit 1; }
	@echo "Installing AceBase ..."
	@cd $* && $(NPM) ci --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@
