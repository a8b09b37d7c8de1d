# Every target sets up what it needs in .venv. A second run is quick.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SOURCES := src/_bucket.pyx $(wildcard src/_bucket/*.pxi) $(wildcard src/aiolimiter_fast/*.pxd src/aiolimiter_fast/_core/*.pxd)
ENGINE_IS = $(PY) -c "from aiolimiter_fast._engine import ENGINE; assert ENGINE == '$(1)', ENGINE"

.PHONY: help demo test bench bench-backends bench-http conformance lint wheels clean
.DELETE_ON_ERROR:

help:
	@echo "make demo | test | bench | bench-backends | bench-http | conformance | lint | wheels | clean    (PYTHON=$(PYTHON), 3.10 or newer)"

$(PY):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed: make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade "pip>=25.1"

# One stamp per dependency group of pyproject.toml, and one for the editable install.
$(VENV)/.group-%: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --group $*
	@touch $@

$(VENV)/.built: $(SOURCES) setup.py pyproject.toml $(VENV)/.group-build
	env -u AIOLIMITER_FAST_NO_EXTENSIONS -u AIOLIMITER_FAST_TRACE \
		$(PY) -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(VENV)/.built $(VENV)/.group-demo
	$(PY) examples/demo.py

# Both engines at once: half of the time the tests wait. The twin's report follows the extension's.
test: $(VENV)/.built $(VENV)/.group-test
	AIOLIMITER_FAST_NO_EXTENSIONS= $(call ENGINE_IS,extension)
	AIOLIMITER_FAST_NO_EXTENSIONS=1 $(call ENGINE_IS,twin)
	@AIOLIMITER_FAST_NO_EXTENSIONS=1 $(PY) -m pytest -q -p no:cacheprovider > $(VENV)/twin.log 2>&1 & twin=$$!; \
	echo "-- extension"; AIOLIMITER_FAST_NO_EXTENSIONS= $(PY) -m pytest -q; extension=$$?; \
	wait $$twin; twin=$$?; echo "-- twin"; cat $(VENV)/twin.log; exit $$((extension + twin))

bench: $(VENV)/.built $(VENV)/.group-bench
	$(PY) benchmarks/table.py

bench-backends: $(VENV)/.built $(VENV)/.group-bench
	$(PY) benchmarks/backends.py
	$(PY) benchmarks/backends_sql.py

bench-http: $(VENV)/.built $(VENV)/.group-bench $(VENV)/.group-demo
	$(PY) benchmarks/metered.py --plot docs

conformance: $(VENV)/.built $(VENV)/.group-conformance
	$(PY) scripts/conformance.py

lint: $(VENV)/.built $(VENV)/.group-lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(abspath $(VENV)/bin):$$PATH" cython-lint $(SOURCES)
	$(PY) -m mypy
	$(PY) -m mypy.stubtest --allowlist tests/typing/stubtest_allowlist.txt aiolimiter_fast._bucket
	$(PY) -m pyright --pythonpath $(PY)

wheels: $(VENV)/.group-wheels
	$(PY) scripts/wheels.py

clean:
	rm -rf build dist wheelhouse .cache src/*.egg-info src/*.c
	find src -name '*.so' -delete
	rm -f $(VENV)/.built
