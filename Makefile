# make chat: set everything up, and talk with the default model.   make test: set everything up, and run the tests.
# Set-up is skipped as long as the files it depends on have not changed.

.PHONY: chat test lint clean
.NOTPARALLEL:

PYTHON := .venv/bin/python
SETUP := pyproject.toml requirements.lock scripts/setup

chat: .venv/ready
	@.venv/bin/millet chat

test: .venv/ready-test
	@$(PYTHON) -m pytest -q

lint: .venv/ready-test
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/ready: $(SETUP)
	@scripts/setup run

.venv/ready-test: $(SETUP)
	@scripts/setup test
