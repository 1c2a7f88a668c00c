# Two commands matter: `make demo` shows the main job, `make test` runs everything. Both set up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

.PHONY: setup demo test check speed docs site pictures page-pictures torture clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/preflight.sh
	@sh scripts/preflight.sh "$(PYTHON)"
	"$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/demo.sh

# Linters, types and import contracts: what must hold at every commit, in a minute.
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	@# Six on two cores: most of the time is waiting for machines that boot. Whoever is idle takes from the others what is left.
	$(BIN)/python -m pytest -n 6 --dist worksteal --reruns 2 --reruns-delay 3

# How long whole commands take, beside an empty one.
speed: setup
	$(BIN)/python -m tests.speed

# Pages that are written by a command.
docs: setup
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/published_benchmark.py
	$(BIN)/python scripts/refusal_table.py docs/training.md
	$(BIN)/python scripts/state_tables.py

# The documents as a site in build/site; a broken link ends it.
site: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The figures of docs/reliability.md, in full: hours. One campaign alone: .venv/bin/python scripts/reliability_page.py --only kills
torture: setup
	$(BIN)/python scripts/reliability_page.py

# docs/tour-terminal.md and its pictures, every screen of the command line, from real output.
pictures: setup
	$(BIN)/python scripts/pictures.py

# docs/tour.md and its pictures, from the pages of `lumina ui` in Chromium.
page-pictures: setup
	$(BIN)/python scripts/page_pictures.py

clean:
	rm -rf $(VENV) build dist demo
