# The commands of this repository; `make` lists them. They make what they need (.venv, packages) by themselves.
PYTHON ?= python3
VENV ?= .venv
FOLDER ?=
BENCH ?=
TORTURE ?=
EXTRAS ?=
BINDIR ?= $(HOME)/.local/bin
BIN := $(VENV)/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo install test check format bench bench-encoding torture constraints clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(VENV)/.installed ## install, write and search a small demo folder; FOLDER=… does it with your own
	@.ci/demo $(BIN) $(if $(FOLDER),"$(FOLDER)")

install: $(VENV)/.installed ## put mmsearch on your PATH, as a link in ~/.local/bin; BINDIR=… elsewhere, EXTRAS=ocr,train adds these
	@$(if $(EXTRAS),.ci/install-python $(VENV) $(EXTRAS),:)
	@mkdir -p "$(BINDIR)" && ln -sf "$(abspath $(BIN))/mmsearch" "$(BINDIR)/mmsearch" && echo "$(BINDIR)/mmsearch starts it"
	@case ":$$PATH:" in *":$(BINDIR):"*) ;; *) echo 'It is not on your PATH yet: export PATH="$(BINDIR):$$PATH"' ;; esac

test: $(VENV)/.installed-test ## every test, the browser's too
	@.ci/install-debian browser
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.installed-test ## format, lint, types and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" tests/unit

format: $(VENV)/.installed-test ## put the code into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-test ## measure speed and memory; BENCH="--quick --folder …" passes options on
	@$(BIN)/python tests/benchmarks/bench.py $(BENCH)

bench-encoding: $(VENV)/.installed-test ## encoding against the reference's loop on the same checkpoint; BENCH="--scale 0.3" for a first look
	@$(BIN)/python tests/benchmarks/reference_loop.py $(BENCH)

torture: $(VENV)/.installed-test ## kill everything that writes, feed it damaged files, measure its memory, and look whether anything is lost; TORTURE="--only fuzz"
	@$(BIN)/python -m tests.torture $(TORTURE)

constraints: ## write constraints.txt again from the newest versions, in an environment of its own
	@.ci/record-constraints

clean: ## remove what the commands above made: .venv, demo, caches
	rm -rf $(VENV) demo runs/bench .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Written last: a broken installation is begun again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@.ci/install-debian
	@.ci/install-python $(VENV) heic
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	@.ci/install-debian
	@.ci/install-python $(VENV) heic,test
	@touch $(VENV)/.installed $@
