# make demo       edit a short clip, writing to demo_out/
# make lint       ruff check, ruff format --check and mypy
# make format     format all Python files with ruff
# make test-fast  a part of every area of the test suite: what is not marked slow
# make test       lint, then the whole test suite
# make test-compat  run the tests of the kernels with the oldest Triton that the triton extra takes
# make mutants    plant the faults of tests/mutants one at a time and run the tests that must fail; writes the table
# make static count what the kernels cost on GPUs that are not here
# make bench  time the registry of providers by pytest-benchmark; JSON in benchmarks/results
# make measure  measure every provider on this CPU (an hour); adds rows to benchmarks/results/measured.csv
# make tables write the README's tables and the pictures from benchmarks/results
# make clean  remove what the targets above wrote, the virtual environment included
#
# Each target first makes the virtual environment it needs. Choose its Python with `make PYTHON=python3.12 ...`; the tests
# run in two processes, or as many as `make test WORKERS=8` says.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
DEPS := $(VENV)/.deps-installed
READY := $(VENV)/.package-installed
COMPAT := .venv-compat
COMPAT_PIP := $(COMPAT)/bin/python -m pip --disable-pip-version-check
COMPAT_DEPS := $(COMPAT)/.deps-installed
NEW_PYTHON = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fame-accel: the pinned versions need Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.11")'

.PHONY: demo lint format test-fast test test-compat mutants static bench measure tables clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(VENV)/bin/fame-accel demo --frames 8 --size 256 --steps 4 --backend auto --out demo_out

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff format .

test-fast: $(READY)
	$(VENV)/bin/python -m pytest -q -r fE -m "not slow" -n $(WORKERS) --dist worksteal

test: lint
	$(VENV)/bin/python -m pytest -q -ra -n $(WORKERS) --dist worksteal

mutants: $(READY)
	$(VENV)/bin/python tests/mutants/run.py --workers $(WORKERS)

# interpreted on the CPU, and compiled for GPUs that are not here
test-compat: $(COMPAT_DEPS)
	$(COMPAT)/bin/python -m pytest -q -k triton tests/core/test_attention.py tests/bindings/test_operators.py tests/core/test_plan.py \
		tests/core/test_offsets.py tests/kernels/test_short_sequences.py
	$(COMPAT)/bin/python -m pytest -q -ra tests/kernels/test_launch_table.py tests/tools/test_tune.py tests/kernels/test_ahead_of_time.py

# what the kernels cost on GPUs that are not here: counts, budgets, predicted times and a picture in benchmarks/results
static: $(READY)
	$(VENV)/bin/python -W ignore -m benchmarks.static
	$(VENV)/bin/python -m benchmarks.predict
	$(VENV)/bin/python -m benchmarks.static_picture
	$(VENV)/bin/python -m benchmarks.budget

bench: $(READY)
	$(VENV)/bin/python -W ignore -m pytest -q benchmarks/bench_attention.py --benchmark-sort=mean \
		--benchmark-group-by=group --benchmark-columns=median,iqr,rounds \
		--benchmark-json=benchmarks/results/pytest_benchmark.json

measure: $(READY)
	for suite in network cpu scaling; do $(VENV)/bin/python -W ignore -m benchmarks.measure $$suite || exit; done

tables: $(READY)
	$(VENV)/bin/python -m benchmarks.measured_picture
	$(VENV)/bin/python -m benchmarks.static_picture
	$(VENV)/bin/python -m benchmarks.readme_table

# A change of pins starts over, so that nothing of the old ones stays behind. The pins need a newer Python than the
# library does.
$(DEPS): requirements/torch.txt requirements/triton.txt requirements/pinned.txt requirements/data.txt
	$(NEW_PYTHON)
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -q -r requirements/torch.txt
	$(VENV)/bin/python -c 'import sys, importlib.util as u; sys.exit(u.find_spec("triton") is None)' || \
		$(PIP) install -q -r requirements/triton.txt
	$(PIP) install -q -r requirements/pinned.txt -c requirements/torch.txt
	$(PIP) install -q --no-deps -r requirements/data.txt
	@touch $@

# What these tests import, no more. compat.txt comes last and replaces the Triton that a torch for GPUs brought.
$(COMPAT_DEPS): requirements/torch.txt requirements/pinned.txt requirements/compat.txt
	$(NEW_PYTHON)
	$(PYTHON) -m venv --clear $(COMPAT)
	$(COMPAT_PIP) install -q -r requirements/torch.txt
	$(COMPAT_PIP) install -q -c requirements/pinned.txt -c requirements/torch.txt setuptools pytest
	$(COMPAT_PIP) install -q -r requirements/compat.txt
	@touch $@

$(READY): $(DEPS) pyproject.toml setup.py
	$(PIP) install -q --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) $(COMPAT) demo_out build dist *.egg-info .benchmarks .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
