# Two commands are all a newcomer needs: `make serve` and `make test`.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8080
CONFIG ?=
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: serve demo test test-workers bench lint lock clean

serve: $(VENV)/run.stamp
	@$(BIN)/llmguard serve --host $(HOST) --port $(PORT) $(if $(CONFIG),--config $(CONFIG))

# A runaway Celery job, stopped before your eyes. It needs a broker and an SDK, which come with the test tools.
demo: $(VENV)/test.stamp
	@$(BIN)/llmguard demo

test: $(VENV)/test.stamp $(VENV)/old-sdks.stamp lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Every way to run away, with and without the guard, on every pool and broker; `make test` plays a part of it.
test-workers: $(VENV)/test.stamp
	LLMGUARD_TEST_WORKERS=all $(BIN)/python -m pytest tests/workers

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.proxy

# Locks carry versions and hashes for every supported Python; `make lock` needs uv.
lock:
	uv pip compile pyproject.toml locks/build.in --extra redis --extra postgres --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header -o locks/run.txt
	uv pip compile pyproject.toml locks/build.in --all-extras --universal --python-version 3.11 -c locks/run.txt \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header -o locks/test.txt
	uv pip compile locks/old-sdks.in -c locks/run.txt --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header -o locks/old-sdks.txt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: locks/run.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r locks/run.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.stamp: locks/test.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r locks/test.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# SDKs of the time before httpx2, beside those of the environment: some tests put them first on PYTHONPATH.
$(VENV)/old-sdks.stamp: locks/old-sdks.txt | $(VENV)/bin/python
	rm -rf $(VENV)/old-sdks
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps --target $(VENV)/old-sdks \
	  -r locks/old-sdks.txt
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist
