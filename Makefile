PYTHON ?= python3
BIN := .venv/bin
RUN := PYTHONWARNINGS=ignore $(BIN)/python -m monai.bundle run --config_file
DEMO := bundles/spectral_ood/output/demo
export MPLBACKEND := Agg

.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/ready ## create .venv and install requirements.txt

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: setup ## train on phantom scans, fit the signature bank, judge in- and out-of-distribution scans
	$(RUN) bundles/spectral_ood/configs/train.json --output_dir $(DEMO) --max_epochs 3 --val_interval 1 \
		--batch_size 2 --learning_rate 0.002 --phantom_cases 40 --quality_cases 0
	$(RUN) bundles/spectral_ood/configs/inference.json --model_dir $(DEMO)/models --output_dir $(DEMO)/inference
	$(RUN) bundles/spectral_ood/configs/evaluate.json --model_dir $(DEMO)/models --output_dir $(DEMO)/evaluation
	@awk -F, 'NR > 1 { $$2 = sprintf("%#.4g", $$2); $$3 = sprintf("%#.4g", $$3); $$6 = sprintf("%#.4g", $$6) } \
		{ print $$1, $$2, $$3, $$4, $$6 }' $(DEMO)/inference/ood_report.csv | column -t
	@echo "figures: $(DEMO)/evaluation/*.png"

# What one process compiles, the others load, whatever the shell says of bytecode.
test: setup ## the whole test suite
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadgroup

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests/gpu

.venv-label/ready: requirements-label.txt
	$(PYTHON) -m venv .venv-label
	.venv-label/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-label.txt
	.venv-label/bin/python -c "import torchvision" 2> /dev/null \
		|| .venv-label/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.16.2
	touch $@

test-label: export MONAILABEL_PYTHON := $(CURDIR)/.venv-label/bin/python
test-label: setup .venv-label/ready ## the tests with the real server of MONAI Label
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile tests/label

PACKAGES := python -c "import sysconfig; print(sysconfig.get_path('purelib'))"

# Beside the packages of .venv, which are not installed twice.
.venv-encoders/ready: .venv/ready requirements-encoders.txt
	$(PYTHON) -m venv .venv-encoders
	$(BIN)/$(PACKAGES) > "$$(.venv-encoders/bin/$(PACKAGES))/shared.pth"
	.venv-encoders/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-encoders.txt
	touch $@

test-encoders: export NEEDS_ENCODERS := yes
test-encoders: export PYTHONPATH := $(CURDIR)/tests/encoders/site
test-encoders: .venv-encoders/ready ## the tests of the networks of segmentation-models-pytorch
	OMP_NUM_THREADS=1 .venv-encoders/bin/python -m pytest tests/encoders

check: format-check lint types verify ## format, lint, types, bundle verification

format: setup ## format code and configs
	$(BIN)/ruff format common bundles tests
	$(BIN)/python -m common format

format-check: setup
	$(BIN)/ruff format --check common bundles tests
	$(BIN)/python -m common format --check

lint: setup ## lint the code
	$(BIN)/ruff check common bundles tests

types: setup ## check the types
	$(BIN)/mypy

verify: setup ## verify every bundle
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/bundles/test_contract.py tests/bundles/test_contract_configs.py

zips: setup ## dist/<bundle>_v<version>.zip and dist/SHA256SUMS
	$(BIN)/python -m common zips

bench: setup ## times of training steps, what changes them, and ratios within one run; BEFORE=<another checkout> beside them
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks --parts steps operators levers $(if $(BEFORE),--before $(BEFORE))
	$(BIN)/python -m tests.benchmarks --parts ratios

mutants: setup ## how many small changes of the code the tests notice, of a random sample
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants

FUZZED := tests/fuzzing tests/common/archive/test_properties.py

fuzz: setup ## hostile files at random, another choice and many more than in the tests; takes up to an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --hypothesis-profile=long $(FUZZED)

clean: ## remove what the other targets made
	rm -rf .venv .venv-label .venv-encoders dist bundles/*/output .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup demo test test-gpu test-label test-encoders check format format-check lint types verify zips bench mutants fuzz clean
