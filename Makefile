# make demo      draw the mini source set, train ALIGN, print the base-to-new table
# make test      run the tests and checks
# make compare   all methods, three seeds
# make bench     training step, evaluation and transport against the naive path, in at most ten minutes
# All set up what they need first (see scripts/setup.sh); PYTHON=... names the interpreter.
python := .venv/bin/python

.PHONY: demo compare bench test check setup clean
.DEFAULT_GOAL := demo

setup:
	@bash scripts/setup.sh

demo: setup
	@$(python) -m experiments.compare --methods ZeroshotCLIP ALIGN --output output/demo

compare: setup
	@$(python) -m experiments.compare --methods all --seeds 1 2 3 --output output/compare

bench: setup
	@$(python) -m scripts.bench.short

test: setup check
	@$(python) -m pytest $(TESTS)

check: setup
	@$(python) -m ruff check . && $(python) -m ruff format --check . && $(python) -m mypy

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
