# Two commands on a fresh machine (Python 3.11 with pip, and make): `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONSTRAINTS ?= constraints.txt
# Processes of `make test`. One more than the cores, as many tests wait for processes of their own.
WORKERS ?= 3
# The pip that started this installs into the environment, so that one without ensurepip (Debian's) will do.
PIP = $(PYTHON) -m pip --python $(BIN)/python --disable-pip-version-check

.PHONY: demo test test-fast test-benchmarks test-core test-oldest test-newest test-python test-packaging test-install \
    coverage lint format bench bench-page docs pages ui env

demo: $(READY)  ## a b0 sweep of six methods on real handwritten digits, tracked in MLflow: the table and the figure
	$(BIN)/adaloss sweep --recipe digits --experiment demo --b0 0.01,0.1,1,10,100 --seeds 1,2 \
	    --methods adaloss,adamloss,adagrad_norm,sgd_constant,sgd_decay_sqrt,adam > /dev/null  # the report has its table
	$(BIN)/adaloss report --experiment demo --out demo
	@echo
	@echo 'Open demo/report.html for the curves of every run, or `make ui` for MLflow, the best runs first.'
	@echo 'Train one with nothing to tune: $(BIN)/python -m recipes.digits fit --config recipes/digits/auto.yaml'
	@echo 'In your own project: Trainer(callbacks=[AdaLossCallback(auto=True)]). README.md goes on from there.'

test: $(READY)  ## the whole test suite, but for the benchmarks' own
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore tests/benchmarks

test-fast: $(READY)  ## what needs torch alone: equations, optimizers, kernels, theory
	$(BIN)/python -m pytest -n 2 -m unit --ignore tests/benchmarks

test-benchmarks: $(READY)  ## that the benchmarks run and compute what they say, at toy sizes
	$(BIN)/python -m pytest -n 2 tests/benchmarks

test-core: $(READY)  ## the tests of optimizers and callback
	$(BIN)/python -m pytest -n 2 $(FLAGS) tests/optim tests/callback

test-oldest:  ## ... on the oldest versions that pyproject.toml allows
	$(MAKE) test-core VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt FLAGS='-W default'

test-newest:  ## ... on the newest versions that there are
	$(MAKE) test-core VENV=.venv-newest CONSTRAINTS=/dev/null FLAGS='-W default'

test-python:  ## ... on another Python: make test-python PYTHON=python3.13
	$(MAKE) test-core VENV=.venv-$(notdir $(PYTHON))

test-packaging: $(READY)  ## what is in the sdist and the wheel, and what a missing extra says
	$(BIN)/python -m pytest tests/packaging

test-install: $(READY)  ## the wheel alone in a fresh environment per extra, and the sdist, several GB each: make test-install EXTRAS=core
	$(BIN)/python -m tests.packaging.install --python $(PYTHON) $(if $(EXTRAS),--extra $(EXTRAS))

coverage: $(READY)  ## branch coverage of the package by all tests, of their child processes too; below 95 % is an error
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist worksteal $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-page  ## everything that is measured: steps and starting (bench-page), loading data, tracking and reports
	$(BIN)/python -m benchmarks.data_loading
	$(BIN)/python -m benchmarks.tracking
	$(BIN)/python -m benchmarks.report

bench-page: $(READY)  ## a quarter of an hour: steps beside torch and other optimizers, and docs/benchmarks.md from them
	$(BIN)/python -m benchmarks.step_time
	$(BIN)/python -m benchmarks.lightning_step
	$(BIN)/python -m benchmarks.allreduce
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.page

docs: $(READY)  ## the documentation as a site, in site/; a warning is an error, and nothing is loaded from elsewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pages: $(READY)  ## what pages have from tests, measurements and the console: support_matrix, benchmarks, paper, alternatives, console
	$(BIN)/python -m tests.support.make_page
	$(BIN)/python -m benchmarks.page
	$(BIN)/python docs/build.py

ui: $(READY)  ## the MLflow UI on the runs made here
	$(BIN)/adaloss ui

env: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	$(PIP) install --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@
