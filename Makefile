# Thin: every target is one command that also works by hand inside .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
HAS_GPU := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo yes)

export OMP_NUM_THREADS ?= 1

.PHONY: demo test portable docs lab claims bench setup help
.DEFAULT_GOAL := help

help:    ## list the targets
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 10

setup: $(READY)  ## makes the virtual environment .venv, with CUDA where there is a GPU; 2 minutes

$(READY): pyproject.toml constraints-cpu.txt
	@echo "Setting up $(VENV) (about a minute; again only when pyproject.toml or constraints-cpu.txt change)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "pvlit needs Python 3.10 to 3.13, this is %d.%d: make PYTHON=python3.12 ..." % v)'
	@$(PYTHON) -m venv $(VENV)
ifeq ($(HAS_GPU),yes)
	@grep -v '^torch==' constraints-cpu.txt > $(VENV)/constraints.txt
else
	@cp constraints-cpu.txt $(VENV)/constraints.txt
	@PIP="$(PIP)" sh tools/cpu_torch.sh
endif
	@$(PIP) install -c $(VENV)/constraints.txt -e '.[dev]'
	@git rev-parse --git-dir >/dev/null 2>&1 && $(BIN)/nbdev-install-hooks >/dev/null || true
	@touch $(READY)

demo: $(READY)  ## trains 57 small generators on handwritten digits and writes a report with pictures and verdicts; 4 minutes, 2 of them for setting up
	@$(BIN)/pvlit run pseudo_video_digits --params demo

test: $(READY)  ## runs everything that CI checks: notebooks, tests, pages in a browser; 10 minutes, 2 of them for setting up
	@$(BIN)/python tools/check.py

portable: $(READY)  ## all notebooks and tests again, disguised as other processors; an hour
	@$(BIN)/python tools/check.py portable --all

docs: $(READY)  ## builds this site into _docs/; a minute
	@$(BIN)/python tools/docs.py

lab: $(READY)  ## opens the notebooks in JupyterLab
	@$(BIN)/jupyter lab nbs

claims: $(READY)  ## lists every claim, its verdict, and whether it is still fresh
	@$(BIN)/pvlit claims

bench: $(READY)  ## measures pvlit beside its peers, on two threads
	@$(PIP) install --no-deps -r benchmarks/requirements.txt
	@for b in benchmarks/[a-z]*.py; do OMP_NUM_THREADS=2 $(BIN)/python $$b || exit 1; done
