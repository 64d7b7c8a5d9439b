# What a developer types. Every target installs what it needs by itself: tools/bootstrap says what that is.
# PY=/path/to/python chooses the interpreter, PYTEST_ARGS and BENCH_ARGS go to pytest and to the benchmark.

PY ?=
export PY
PYTHON := .venv/bin/python
PYTEST_ARGS ?= -n auto --dist worksteal
BENCH_ARGS ?=
SOURCES := src tests benchmarks demo setup.py

.PHONY: help demo test campaign flips mutations bench bench-store bench-smoke kernels lint types format native-test clean

help:
	@echo "make demo         replicate a real disk image end to end, and let e2fsck judge what is recovered"
	@echo "make test         all tests (PYTEST_ARGS=...)"
	@echo "make campaign     the long seeded crash campaigns; BLOCKREPLICA_SEED=... repeats one"
	@echo "make flips        every bit of two small stores flipped (part of make campaign)"
	@echo "make mutations    bugs planted in the store and the C core, one at a time: the tests must catch each"
	@echo "make bench        against rsync, qemu-img and cp (BENCH_ARGS=...); bench-smoke: the same, small"
	@echo "make bench-store  verify against cat, a delta of random writes, two thousand points"
	@echo "make kernels      pytest-benchmark suites of the kernels, C against Python"
	@echo "make lint types format native-test clean"

demo:
	@tools/bootstrap run
	@$(PYTHON) demo/run.py

test:
	@tools/bootstrap dev
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

campaign: export BLOCKREPLICA_SEED ?= $(shell date +%s)
campaign: export BLOCKREPLICA_CRASH_STATES ?= 17000
campaign: export BLOCKREPLICA_FAULTS ?= 0
campaign: export BLOCKREPLICA_KILL_SEEDS ?= 40
campaign: export BLOCKREPLICA_KILL_TIMED ?= 60
campaign flips: export BLOCKREPLICA_FLIPS ?= 0
campaign: export BLOCKREPLICA_MACHINE_EXAMPLES ?= 500
campaign: export BLOCKREPLICA_GUEST_ROUNDS ?= 25
campaign:
	@tools/bootstrap dev
	@echo "BLOCKREPLICA_SEED=$$BLOCKREPLICA_SEED"
	@$(PYTHON) -m pytest -m campaign $(PYTEST_ARGS)
	@$(PYTHON) -m pytest tests/crash tests/replication/test_machine.py $(PYTEST_ARGS)

flips:
	@tools/bootstrap dev
	@$(PYTHON) -m pytest tests/crash/test_single_flips.py $(PYTEST_ARGS)

mutations:
	@tools/bootstrap dev
	@$(PYTHON) tests/crash/mutations.py
	@$(PYTHON) tests/crash/native_mutations.py
	@$(PYTHON) tests/crash/rule_mutations.py

bench:
	@tools/bootstrap bench
	@$(PYTHON) benchmarks/compare.py $(BENCH_ARGS)

bench-store:
	@tools/bootstrap bench
	@$(PYTHON) benchmarks/store.py $(BENCH_ARGS)

bench-smoke:
	@tools/bootstrap bench
	@$(PYTHON) benchmarks/compare.py --quick $(BENCH_ARGS)

kernels:
	@tools/bootstrap dev
	@$(PYTHON) -m pytest benchmarks --benchmark-only

lint:
	@tools/bootstrap ci
	@$(PYTHON) -m ruff check $(SOURCES)
	@find native -name '*.[ch]' -not -path '*/build/*' | xargs -r clang-format --dry-run -Werror

types:
	@tools/bootstrap dev
	@$(PYTHON) -m mypy

format:
	@tools/bootstrap ci
	@$(PYTHON) -m ruff check --fix $(SOURCES)
	@$(PYTHON) -m ruff format $(SOURCES)
	@find native -name '*.[ch]' -not -path '*/build/*' | xargs -r clang-format -i

native-test:
	@tools/bootstrap run
	@$(MAKE) -C native test

clean:
	rm -rf .venv build dist demo-work bench-work native/build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf src/*.egg-info src/blockreplica/*.so
	find src tests benchmarks demo -name __pycache__ -type d -prune -exec rm -rf {} +
