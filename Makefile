# make train   environment, then the demo: synthetic faces, drawn, degraded and trained on
# make test    environment, then the tests
# Both create .venv if it is missing and need nothing but python3 (3.10 or newer, with venv) and the package index.

comma := ,
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python

# CUDA 12 libraries for drivers 525-579, CUDA 13 for newer ones and for machines without a GPU.
DRIVER := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1)
EXTRA  := $(if $(DRIVER),$(shell [ $(DRIVER) -ge 580 ] && echo cuda13 || echo cuda12),cuda13)
# DALI and CuPy exist for Linux only; elsewhere the torch pipe does without.
EXTRA  := $(if $(filter Linux,$(shell uname -s)),$(EXTRA),)

.PHONY: train test clean

train: $(VENV)/ready
	$(RUN) train.py

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

$(VENV)/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "python3 3.10 or newer with venv is needed (Debian: apt install python3-venv); name another with make PYTHON=..."; exit 1; }
	@echo "installing the packages into $(VENV) (about 2 GB with CUDA's libraries) ..."
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) && $(RUN) -m pip install --quiet --upgrade pip && \
	    $(RUN) -m pip install --quiet -e '.[$(if $(EXTRA),$(EXTRA)$(comma))test]' && \
	    echo "installed in $$(($$(date +%s) - start)) s" && touch $@

clean:
	rm -rf $(VENV) *.egg-info
