# Targets take the environment that is active, or .venv.
BIN := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV)/bin,.venv/bin)

.PHONY: check format lint types fast test parity docs images native
check: lint types test

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
types:
	$(BIN)/pyright --pythonpath $(BIN)/python
fast:
	$(BIN)/pytest -q -m "not slow"
test:
	$(BIN)/pytest -q
parity:
	$(BIN)/python benchmarks/parity.py
native:
	$(BIN)/python hatch_build.py
docs:
	$(BIN)/python docs/make_help.py
images:
	$(BIN)/python docs/make_images.py
