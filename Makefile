# Everything one needs to type. `make help` lists it.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
# nbdev's commands look for settings.ini from here; the venv comes first on PATH so that they find each other.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUTF8 = 1
export TOKENIZERS_PARALLELISM = false
LESSONS   := $(sort $(wildcard nbs/[0-9]*.ipynb))
SOLUTIONS := $(sort $(wildcard nbs/solutions/[0-9]*.ipynb))
# Lessons as tests, each in a process of its own: a single one keeps what they leave in memory, 11 GB at the end.
each = @bad=0; for nb in $(1) nbs/index.ipynb nbs/solutions; do nbdev_test --n_workers 1 $(2) --path $$nb || bad=1; done; exit $$bad

.PHONY: help install model quickstart test test-fast lab docs bench run readme clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## a .venv with everything, at the versions in constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about 2.2 GB, once."
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

model: install  ## fetch the embedded model into the cache (93 MB, once)
	@$(BIN)/ftcourse fetch

quickstart: model  ## fine-tune a real model on this CPU: lesson 00 from start to end
	@$(PY) tools/run_lesson.py nbs/00_quickstart.ipynb --summary runs/quickstart/report.json

test: model  ## all that guards the project: lessons, solutions, site, pytest
	$(call each,$(LESSONS),--timing --do_print)
	$(PY) tools/docs.py
	$(PY) -m pytest

test-fast: model  ## a few minutes, for working: every lesson but the quickstart, and the quick half of pytest
	$(call each,$(filter-out nbs/00_%,$(LESSONS)))
	$(PY) -m pytest -m "not slow and not browser"

lab: model  ## JupyterLab, opened on the index
	$(BIN)/jupyter lab nbs/index.ipynb

docs: install  ## build the site into _docs/, with Quarto where there is one
	$(PY) tools/docs.py

bench: model  ## side-by-side measurements, each printing a table
	@for b in benchmarks/[a-z]*.py; do echo "== $$b"; $(PY) $$b || exit 1; done

run: model  ## run lessons and save their outputs: make run LESSONS=nbs/01_models.ipynb
	$(PY) tools/run_lesson.py --save $(LESSONS)
	nbdev_clean

readme: install  ## README.md from nbs/index.ipynb
	$(PY) tools/readme.py

clean:  ## remove what was built here; the model cache and .venv stay
	rm -rf _docs _proc build runs nbs/nbdev.yml nbs/sidebar.yml *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
