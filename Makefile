# Every target sets up what it needs first (scripts/setup.sh). PYTHON=... names the interpreter for .venv,
# TESTS=... the tests to run, for example: make test TESTS=tests/ot
python := .venv/bin/python
# two workers on two cores; torch threads on top of them would only compete
pytest := OMP_NUM_THREADS=1 $(python) -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: help setup demo compare bench test-fast test test-long check lock docs clean
.DEFAULT_GOAL := demo

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup:  ## make .venv with all packages of requirements.lock
	@bash scripts/setup.sh

demo: setup  ## write the mini source set, train ALIGN, print the base-to-new table (the default)
	@$(python) -m experiments.compare --methods ZeroshotCLIP ALIGN --output-dir output/demo

compare: setup  ## train and compare all methods, three seeds
	@$(python) -m experiments.compare --methods all --seeds 1 2 3 --output-dir output/compare

bench: setup  ## time a training step, an evaluation and the transport, in at most ten minutes
	@$(python) -m scripts.bench.ot --sizes 198 8 --sizes 8 8 --iterations 5 100 --at-least 3 --minutes 2
	@$(python) -m scripts.bench.step --class-counts 50 10 --naive-up-to 50 --repeat 2 --minutes 4
	@$(python) -m scripts.bench.eval --class-counts 50 500 --naive-up-to 50 --repeat 2 --minutes 4

test-fast: setup  ## run the unit tests, without any training
	@$(pytest) -m "not slow and not long" $(TESTS)

test: setup check  ## run the checks and all tests but the long ones
	@$(pytest) -m "not long" $(TESTS)

test-long: setup  ## run the tests that take longest
	@$(pytest) -m long $(TESTS)

check: setup  ## run ruff and mypy
	@$(python) -m ruff check . && $(python) -m ruff format --check . && $(python) -m mypy

lock: setup  ## write requirements.lock from pyproject.toml, keeping versions that fit; UPGRADE=1 takes the newest
	@$(python) -m uv pip compile pyproject.toml --extra train --extra export --extra docs --extra dev --universal --python-version 3.10 \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet \
		$(if $(UPGRADE),--upgrade) --output-file requirements.lock

docs: setup  ## build the documentation as a site in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict --quiet && echo build/site/index.html

clean:  ## remove .venv and the caches of the tools
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
