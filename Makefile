# Every target sets up what it needs: a virtual environment in .venv, jars in var/lib, the Java module in runtime/target.
# What is there already is kept; a changed lock file, pom or Java source is noticed.

PYTHON ?= python3.11
export PYTHON

BIN := .venv/bin
INSTALLED := .venv/.installed
EDITABLE := .venv/.editable
JARS := var/lib/.complete
RUNTIME := runtime/target/herald-runtime.jar
RUNTIME_SOURCES := runtime/pom.xml $(shell find runtime/src/main -type f 2>/dev/null)
MAVEN := mvn -q -B

.DELETE_ON_ERROR:
.PHONY: help demo test lint bench up down clean setup venv jars runtime prerequisites quick

help:
	@echo "make demo    everything from nothing: stack up, synthetic load, report; ARGS=--keep leaves the stack up"
	@echo "make test    every check and test, on real Kafka, Flink and Redis"
	@echo "make lint    formatting, lint, types, import rules, compose file"
	@echo "make bench   measure this machine; writes var/bench/"
	@echo "make up      start the local stack; make down stops it"
	@echo "make clean   stop the stack; remove everything that was built, the data included"

demo: setup
	$(BIN)/herald demo $(ARGS)

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

up: setup
	$(BIN)/herald up $(ARGS)

down: venv
	$(BIN)/herald down $(ARGS)

# The quick checks come first, and one failure ends the run.
test: setup
	$(MAKE) --no-print-directory quick
	$(MAVEN) -f runtime/pom.xml verify
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

lint: venv
	$(MAKE) --no-print-directory quick

quick:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

# A stack that cannot be stopped keeps its directory: the records in it are the only way to find the processes.
clean:
	if [ -x $(BIN)/herald ]; then $(BIN)/herald down; fi
	rm -rf var runtime/target .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: venv jars runtime
venv: $(EDITABLE)
jars: $(JARS)
runtime: $(RUNTIME)

# First of all, in every run, before anything is installed.
prerequisites:
	@sh cli/prerequisites.sh

$(INSTALLED): requirements.lock | prerequisites
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	touch $@

# Quietly: setuptools warns of every editable installation.
$(EDITABLE): setup.py pyproject.toml $(INSTALLED) | prerequisites
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(JARS): cli/stack/pom.xml | prerequisites
	rm -rf var/lib
	$(MAVEN) -f cli/stack/pom.xml package
	touch $@

# The module's tests run Python, so it is built for the environment's Flink.
$(RUNTIME): $(RUNTIME_SOURCES) $(INSTALLED) | prerequisites
	$(MAVEN) -f runtime/pom.xml package -DskipTests
	touch $@
