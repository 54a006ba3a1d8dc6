# make train   environment, then the demo: synthetic faces, drawn, degraded and trained on
# make test    the same environment and what tests need, then the tests
# make check   layout, lint, types, and the documentation as a site
# All create .venv if it is missing and need nothing but python3 (3.10 or newer, with venv) and the
# package index.

comma := ,
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python
# setuptools warns in a box of twelve lines that it may drop compat one day.
INSTALL = PYTHONWARNINGS=ignore::UserWarning $(RUN) -m pip install --quiet --config-settings editable_mode=compat

# CUDA 12 libraries for drivers 525-579, CUDA 13 for newer ones and for machines without a GPU.
DRIVER := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1)
EXTRA  := $(if $(DRIVER),$(shell [ $(DRIVER) -ge 580 ] && echo cuda13 || echo cuda12),cuda13)
# DALI and CuPy exist for Linux only; elsewhere the torch pipe does without.
EXTRA  := $(if $(filter Linux,$(shell uname -s)),$(EXTRA),)

.PHONY: train test check clean

train: $(VENV)/ready
	$(RUN) train.py

test: $(VENV)/ready-test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready-test
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

$(VENV)/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "python3 3.10 or newer with venv is needed (Debian: apt install python3-venv); name another with make PYTHON=..."; exit 1; }
	@echo "installing the packages into $(VENV) (about 2 GB with CUDA's libraries) ..."
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) && $(RUN) -m pip install --quiet --upgrade pip && \
	    $(INSTALL) -e '.$(if $(EXTRA),[$(EXTRA)])' && \
	    echo "installed in $$(($$(date +%s) - start)) s" && touch $@

$(VENV)/ready-test: $(VENV)/ready
	@echo "installing what the tests and checks need ..."
	@$(INSTALL) -e '.[$(if $(EXTRA),$(EXTRA)$(comma))test,check]' && touch $@

clean:
	rm -rf $(VENV) site *.egg-info
