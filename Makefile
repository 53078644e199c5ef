# demo and test are all a newcomer needs; each does its whole set-up.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-long lint docs install timegan contracts test-contracts slither clean

demo: install ## a small study on simulated records, with its table
	rm -rf runs/quickstart
	$(BIN)/pulseledger sweep sweeps/quickstart.yaml --out runs/quickstart
	@echo
	@echo "Next: pulseledger ui runs/quickstart, or README.md for MIT-BIH. (The command is $(BIN)/pulseledger.)"

test: install ## the default suite
	$(BIN)/python -m pytest

test-long: install ## what takes minutes, and properties with many examples
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m pytest -m "hypothesis and not long" --hypothesis-profile=thorough

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy engine sweeps dashboard pulseledger

docs: install ## the documentation's site; builds without a network, any warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(STAMP)

# TensorFlow 2.15 wants Python 3.11 and numpy 1; nothing of the project is installed beside it.
timegan: .venv-timegan/.installed ## ydata-synthetic in an environment of its own, 3 GB

.venv-timegan/.installed:
	python3.11 -m venv .venv-timegan
	.venv-timegan/bin/python -m pip install --quiet --disable-pip-version-check "ydata-synthetic==1.4.0"
	@touch $@

contracts: ## rebuild the contracts (needs Node)
	cd contracts && npm ci && npm run build

test-contracts: ## check the build, lint, test and measure the contracts (needs Node; slither too if it is on the path)
	cd contracts && npm ci && npm test
	cd contracts && if command -v slither > /dev/null; then npm run slither; else echo "slither: not on the path, skipped"; fi

slither: ## the static analysis, from an environment of its own
	test -x contracts/.venv/bin/slither || $(PYTHON) -m venv contracts/.venv
	contracts/.venv/bin/python -m pip install --quiet --disable-pip-version-check slither-analyzer==0.11.6
	cd contracts && npm ci && PATH="$$PWD/.venv/bin:$$PATH" npm run slither

clean:
	rm -rf .venv .venv-timegan runs build dist *.egg-info contracts/.venv contracts/out contracts/cache
