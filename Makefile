# Needs python3, pip and make. Everything is installed into .venv; a second call reuses it.
#   make demo      the main job: DSSM on MovieLens-100K        make test      every test
#   make install   only the environment                        make lab       JupyterLab on nbs/
#   make export    notebooks -> package, then clean them       make quick     the tests that a change touches
#   make docs      the site, in _docs/html                     make lint      ruff
# make test WORKERS=4 divides the tests among four processes instead of two.
# STACK=cpu or STACK=cuda overrides what is chosen below; PIP_FLAGS goes to every pip install (an index, say).

.DEFAULT_GOAL := help
.PHONY: help install demo test quick browser lab export readme docs lint clean

PYTHON ?= python3
WORKERS ?= 2
STACK := $(or $(STACK),$(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu))
ifeq ($(filter cpu cuda,$(STACK)),)
$(error STACK is '$(STACK)'; use cpu or cuda)
endif

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-warn-conflicts -c requirements/constraints.txt $(PIP_FLAGS)
STAMP := .venv/installed-$(STACK)
OTHER := $(filter-out $(STAMP),$(wildcard .venv/installed-*))

help:
	@sed -n '2,6s/^# *//p' Makefile

install: $(STAMP)
	@echo "recbench is installed in .venv ($(STACK))"

# Some systems ship venv without the pip it would put in: then the one outside installs one.
# torch first, so that nothing after it can choose another. Only --no-deps keeps torchrec from fetching the CUDA fbgemm.
$(STAMP): settings.ini setup.py pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recbench needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.11 ...")'
	@[ ! -L .venv ] || { echo ".venv is a link; an environment is only made in a folder of its own, remove the link"; exit 1; }
	$(PYTHON) -m venv $(if $(OTHER),--clear) .venv || { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python .venv/bin/python install pip; }
	$(PIP) torch
ifeq ($(STACK),cpu)
	$(PIP) -e '.[dev,docs]'
	$(PIP) --no-deps torchrec fbgemm-gpu-cpu
else
	$(PIP) -e '.[cuda,dev,docs]'
endif
	$(BIN)/python -c 'from recbench.core.stack import main; main()'
	@touch $@

demo: install
	$(BIN)/python -m papermill nbs/experiments/run_dssm.ipynb out.ipynb -p top_k 50
	@$(BIN)/python scripts/final_table.py out.ipynb

test: install browser
	$(BIN)/python -m pytest -n $(WORKERS)

quick: install
	$(BIN)/python scripts/quick.py -n $(WORKERS)

# The browser test wants Debian's chromium. Where it cannot be had, that test skips and says why; nothing fails here.
# Tried once for each .venv.
browser: .venv/browser-tried

.venv/browser-tried: | $(STAMP)
	-@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && timeout 120 apt-get update -q && DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -q -y --no-install-recommends chromium; } || echo "no chromium: to install it takes root and a working apt-get; the browser test will skip"
	@touch $@

lab: install
	$(BIN)/python -m jupyterlab --notebook-dir=nbs

export: install
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: install
	$(BIN)/jupyter-execute --inplace nbs/index.ipynb nbs/measured.ipynb
	for notebook in index measured; do $(BIN)/nbdev_clean --fname nbs/$$notebook.ipynb; done
	$(BIN)/python scripts/readme.py

docs: install
	$(BIN)/python scripts/build_site.py

lint: install
	$(BIN)/ruff check

clean:
	rm -rf .venv out.ipynb build dist *.egg-info .pytest_cache .ruff_cache
	find nbs recbench tests -name __pycache__ -prune -exec rm -rf {} +
