# The two commands: `make run` and `make test`. `make help` lists the rest.
PYTHON  ?= python3
PROFILE ?= cpu
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed

# Nothing is fetched after the installation, and two trainings at once are slower than one after the other.
export HF_HUB_OFFLINE := 1
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install run results test lab notebooks lint format figures report data wheel clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | awk -F '\t' '{printf "make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## the environment .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "installing the packages of requirements.lock into $(VENV): a few minutes, once"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP)  ## train the starter basis and its router, evaluate, draw, into runs/ (PROFILE=smoke: two minutes)
	LORWEB_PROFILE=$(PROFILE) $(PY) -m lorweb_mini.run

results: $(STAMP)  ## for maintainers: copy the last run's pictures and table to figures/run and the README
	$(PY) -m benchmarks.readme results

# A thread a process: threads that spin while they wait would take the other process's core.
test: $(STAMP)  ## all tests in two processes, with every notebook run in the smoke profile
	@LORWEB_PROFILE=smoke OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lab: $(STAMP)  ## JupyterLab on the course
	LORWEB_PROFILE=$(PROFILE) $(PY) -m jupyterlab --notebook-dir=notebooks

notebooks: $(STAMP)  ## generate and execute every .ipynb from its .py
	LORWEB_PROFILE=$(PROFILE) $(PY) notebooks/build/execute.py

lint: $(STAMP)  ## ruff (notebook sources included), mypy, the direction of imports, the declared dependencies
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy lorweb_mini
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/deptry lorweb_mini
	$(VENV)/bin/deptry benchmarks data/build notebooks --ignore DEP002,DEP004

format: $(STAMP)  ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

figures: $(STAMP)  ## every static figure again
	$(PY) -m data.build.contact
	$(PY) -m benchmarks.readme picture

report: $(STAMP)  ## measure the shipped weights; their reports, model card and losses again
	$(PY) -m benchmarks.model_card

data: $(STAMP)  ## the picture sheets, relations and splits again, from the npm packages (needs npm and network)
	$(PY) -m data.build.build

wheel: $(STAMP)  ## dist/lorweb_mini-*.whl with the data and the weights inside
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove the environment, caches and builds; data, weights and figures stay
	rm -rf $(VENV) .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
