# pix2gan: everything a person or CI needs, from a fresh clone with python3 (and its venv) and make.
#
#   make demo            sets up what is missing, then turns four drawings into photos
#   make test            the same set-up plus the test tools, then the tests
#
# PYTHON  the interpreter that .venv is made with (3.10 to 3.13)
# TORCH   what pip installs first; it decides between CPU and CUDA builds. On Linux plain torch
#         from PyPI is the CUDA build, several gigabytes; the CPU build is on PyTorch's own index:
#           make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH = torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
# Twice quiet: errors only, which pip prints in full.
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
BUILD_FILES := pyproject.toml setup.py pix2gan/ops/backends/_native.py $(wildcard csrc/*.* csrc/*/*.*)
CPP := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
# Left by setup.py where the native kernels could not be built.
NATIVE_NOTE := build/native_build.txt

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test stress lint format bench check-kernels clean distclean FORCE

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(VENV)/.installed  ## .venv with torch, pix2gan and its native kernels

install-dev: $(VENV)/.installed-dev  ## install, and the tools for tests and linting

# The stamps: each step runs again only when what it depends on is newer.
# Naming TORCH on the command line installs that torch into an existing .venv too.
ifeq ($(origin TORCH),command line)
$(VENV)/.torch: FORCE
endif
$(VENV)/.torch:
	@if [ -f $@ ] && [ "$$(cat $@)" = "$(TORCH)" ]; then exit 0; fi; \
	set -e; \
	if [ ! -x $(BIN)/python ]; then \
	    echo "make: creating $(VENV)"; \
	    $(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	fi; \
	echo "make: installing $(TORCH) (once, a minute or more)"; \
	$(PIP) $(TORCH); \
	$(PIP) "setuptools>=77.0.3" "ninja>=1.11"; \
	echo "$(TORCH)" > $@

# $(1): what pip installs; the editable install compiles csrc/ into the package.
define install-package
$(PIP) --no-build-isolation -e "$(1)"
@if [ -f $(NATIVE_NOTE) ]; then cat $(NATIVE_NOTE) >&2; fi
endef

$(VENV)/.installed: $(VENV)/.torch $(BUILD_FILES)
	@echo "make: installing pix2gan and building its native kernels"
	@$(call install-package,.)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch $(BUILD_FILES)
	@echo "make: installing pix2gan, building its native kernels, and the tools for tests and linting"
	@$(call install-package,.[dev])
	@touch $(VENV)/.installed $@

demo: install  ## turn the bundled drawings into photos, and say where they are
	@$(BIN)/pix2gan demo

test: install-dev  ## all tests but the stress tests; under 10 minutes on two cores
	@$(BIN)/python -m pytest -q

stress: install-dev  ## the tests that are too heavy for `make test`
	@$(BIN)/python -m pytest -q -m stress --timeout 3600

lint: install-dev  ## ruff, mypy and clang-format; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@if [ -n "$(CPP)" ]; then echo "clang-format --dry-run -Werror csrc"; $(BIN)/clang-format --dry-run -Werror $(CPP); fi

format: install-dev  ## let ruff and clang-format rewrite the files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@if [ -n "$(CPP)" ]; then $(BIN)/clang-format -i $(CPP); fi

bench: install  ## time the generators against stock torch.nn, into benchmarks/results/
	$(BIN)/python -m benchmarks.generators

check-kernels: install-dev  ## compile every GPU kernel, without a GPU; registers, shared memory, spills
	$(BIN)/python -m benchmarks.check_kernels $(ARGS)

clean:  ## remove builds and caches, keep .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f pix2gan/ops/backends/*.so $(VENV)/.installed $(VENV)/.installed-dev
	find pix2gan tests benchmarks datasets examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean  ## clean, and remove .venv too
	rm -rf $(VENV)
