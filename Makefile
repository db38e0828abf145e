# Two commands are all: `make demo` and `make test`. Each sets itself up on first use.
.DEFAULT_GOAL := help
PYTHON_VERSION ?= 3.11
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
READY := .venv/.ready
SECONDS ?= 300
SEED ?= 0
# Commands begin in a third of the time where modules are compiled once and kept so.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast docs bench soak audit lock clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY)  ## two street worlds, without adaptation and with, a table and a page
	.venv/bin/segue demo

test: $(READY)  ## lint, types and every test that needs no GPU and no downloads
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	OMP_NUM_THREADS=1 .venv/bin/pytest -n $$(.venv/bin/python -c "import os; print(len(os.sched_getaffinity(0)))") --dist loadfile

test-fast: $(READY)  ## the tests that take no more than a moment
	OMP_NUM_THREADS=1 .venv/bin/pytest -m "not slow" -x

docs: $(READY)  ## the documentation as a site in runs/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --site-dir runs/site

soak: $(READY)  ## kills runs of the four systems at random points and compares (SECONDS=300 SEED=0)
	OMP_NUM_THREADS=1 .venv/bin/python tests/soak.py --seconds $(SECONDS) --seed $(SEED)

bench: $(READY)  ## every speed claim beside the plain formula (docs/performance.md)
	.venv/bin/python benchmarks/bench.py
	.venv/bin/python benchmarks/growth.py
	.venv/bin/python benchmarks/gpu.py

audit:  ## known faults of the pinned dependencies; says so where it cannot look
	@PIP_AUDIT="$(UV) tool run --quiet pip-audit>=2.9,<3" .ci/audit

lock:  ## pins anew from the ranges in pyproject.toml (no registry address is written)
	$(UV) pip compile --universal --all-extras --group dev pyproject.toml -o requirements.txt \
	  --python-version $(PYTHON_VERSION) --no-header --no-annotate

clean:  ## removes the environment and what runs wrote
	rm -rf .venv .uv runs .pytest_cache .mypy_cache .ruff_cache

$(READY): requirements.txt pyproject.toml
	@command -v $(UV) >/dev/null 2>&1 || { \
	  echo "fetching uv into .uv"; \
	  python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv; }
	@test -x .venv/bin/python || $(UV) venv --quiet --python $(PYTHON_VERSION) .venv
	$(UV) pip sync --quiet --python .venv/bin/python requirements.txt
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --editable .
	@touch $@
