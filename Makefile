# make demo   install into .venv, then predictions, a density and its charges for examples/ with the bundled models
# make test   install into .venv with the tests' tools, then the whole suite
# make lint   ruff and mypy
# make docs   the site, in build/site
# make bench  the speed comparisons that need nothing but this machine
# make lower-bounds   tests with the oldest versions that pyproject.toml allows
# make gpu    ten minutes on a GPU: tests, rates, large densities; RUN=FOLDER goes on with a training

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STRUCTURES := examples/water.xyz examples/aspirin.xyz examples/caffeine.xyz examples/glycine.xyz

.PHONY: demo test lint docs bench lower-bounds gpu clean
.DELETE_ON_ERROR:

# One stamp a set of extras: the environment is made anew when what it is made from changes.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[plot]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

demo: $(VENV)/.demo
	mkdir -p demo
	$(BIN)/neupol predict $(STRUCTURES)
	$(BIN)/neupol density examples/aspirin.xyz --normalize -o demo/aspirin.cube --plot demo/aspirin.png
	$(BIN)/neupol charges examples/aspirin.xyz --plot demo/aspirin.html
	$(BIN)/neupol density examples/nacl.poscar --normalize -o demo/nacl.xsf
	$(BIN)/neupol relax examples/thiophene.extxyz -o demo/thiophene.extxyz
	@echo "demo/ holds the density of aspirin as a cube, a picture and, with its charges, a page to turn;"
	@echo "that of rock salt; and thiophene relaxed"

test: $(VENV)/.test
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p neupol_cli

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q -f docs/site/mkdocs.yml
	@echo "build/site/index.html is its first page"

bench: $(VENV)/.test
	$(BIN)/python benchmarks/linear.py

lower-bounds: $(VENV)/.test
	$(BIN)/python benchmarks/lower_bounds.py

gpu: $(VENV)/.test
	@$(BIN)/python benchmarks/gpu.py $(if $(RUN),--run "$(RUN)")

clean:
	rm -rf $(VENV) demo build *.egg-info
