# Every target sets up .venv itself; the second time that takes no time.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed
DEV_READY := $(VENV)/.installed-dev
RUN := $(VENV)/bin/python
# Two processes, a file of tests in one of them; each works with one thread, and spins on none.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(RUN) -m pytest --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo demo-video demo-audio demo-compare test test-slow test-browser lint types check

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# A stamp is the last step, so an installation that failed or was stopped is tried again.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "selavi needs Python 3.11 or newer, \
	found %d.%d; name another one: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --editable .
	@touch $@

# What tests, style and types need, and training does not.
$(DEV_READY): $(READY)
	$(RUN) -m pip install --editable '.[dev]'
	@touch $@

demo: $(READY) ## Generate clips, train on them, measure the clusters of unseen ones, build the page of these
	$(RUN) tools/train.py --config configs/demo.yaml resume=auto
	$(RUN) tools/cluster_eval.py runs/demo --split test --yardsticks
	$(RUN) tools/export_clusters.py runs/demo --split test

demo-video demo-audio: demo-%: $(READY)
	$(RUN) tools/train.py --config configs/demo.yaml 'modalities=[$*]' run_dir=runs/demo-$* resume=auto
	$(RUN) tools/cluster_eval.py runs/demo-$* --split test

demo-video: ## The demo with frames alone
demo-audio: ## The demo with sound alone

demo-compare: demo demo-video demo-audio ## All three, side by side
	$(RUN) tools/cluster_eval.py runs/demo runs/demo-video runs/demo-audio --split test --yardsticks

test: $(DEV_READY) ## Run the tests
	$(PYTEST)

test-slow: $(DEV_READY) ## Run the long tests: sweeps, whole programs killed or trained to the end
	$(RUN) -m pip install --quiet --editable '.[ray]'
	$(PYTEST) -m slow

test-browser: $(DEV_READY) ## Open the gallery in Chromium (found on the path, or SELAVI_CHROMIUM=...) and try all of it
	$(RUN) -m pip install --quiet --editable '.[browser]'
	$(RUN) -m pytest tests/browser

lint: $(DEV_READY) ## Check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(DEV_READY) ## Check types
	$(RUN) -m mypy

check: lint types test ## All three: style, types, tests
