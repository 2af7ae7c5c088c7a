# make demo   sets up and runs the main job: ZegCLIP on the embedded world, about five minutes on two cores
# make test   sets up and runs the tests
# make lint   sets up and checks style
# make shapes-clip   trains the small packaged CLIP anew (the weights are shipped; this is how they were made)

# Large pages for malloc: the step asks for its temporaries anew each time, and mapping them in
# pages of 4 KiB takes a quarter of the time on CPUs.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE := setup.cfg pyproject.toml

.PHONY: demo test lint shapes-clip clean

demo: $(VENV)/.installed
	$(BIN)/python -m ovseg_jax.main --config configs/shapes/zegclip.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

shapes-clip: $(VENV)/.installed
	$(BIN)/python -m ovseg_jax.main --config configs/shapes/clip.py:objects
	$(BIN)/python -m ovseg_jax.main --config configs/shapes/clip.py:scenes
	$(BIN)/ovseg export runs/shapes_clip_scenes ovseg_jax/assets/shapes_clip

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("ovseg_jax needs Python 3.11 or newer; run make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(BIN)/python $(PACKAGE)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,data]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
