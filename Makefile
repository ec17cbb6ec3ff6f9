# What there is to make: `make help`. Every target does what it needs first, and no more than that.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
GO ?= go
export PYTHON GO
# Debian keeps the disk tools where users other than root do not look.
export PATH := $(PATH):/usr/sbin:/sbin
# Mounts and loop devices are root's.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo env "PATH=$(PATH)")

PLUGIN := packer-plugin-osc-chroot
# Whose repository releases are in: Packer installs them from github.com/OWNER/osc-chroot.
OWNER ?= $(shell sed -n 's/^OWNER = "\(.*\)"/\1/p' packer_plugin_osc_chroot/version.py)
VENV := .venv
IN_VENV := $(VENV)/bin/python
BUNDLE := shim/internal/bundle/bundle.tar.zst
# Some systems have another program of that name (cracklib's).
FOUND_PACKER := $(shell CHECKPOINT_DISABLE=1 packer version </dev/null 2>/dev/null | \
	grep -q '^Packer v' && command -v packer)
PACKER = $(or $(FOUND_PACKER),build/tools/packer)
DEBIAN_IMAGE := build/images/debian-12.raw
# The Ansible provisioner, and the Ansible that it runs.
ANSIBLE := build/tools/packer-plugin-ansible build/ansible/.installed
BOOTABLE := build/images/bootable.raw build/images/bootable.tar.zst
DEBIAN_ROOTS := bullseye bookworm trixie

PYTHON_SOURCES := $(shell find packer_plugin_osc_chroot -name '*.py')
GO_SOURCES := shim/go.mod shim/go.sum shim/internal/components/components.json \
	$(shell find shim -name '*.go' -not -name '*_test.go')
GO_BUILD := CGO_ENABLED=0 $(GO) -C shim build -trimpath -ldflags='-s -w'

##@ For users

.PHONY: help
help: ## Show this text
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile
	@printf '\nPYTHON=%s and GO=%s can be set on the command line.\n' '$(PYTHON)' '$(GO)'

.PHONY: demo
demo: | check-demo ## Build an OMI from a real Debian with the real packer, on this machine alone
	@$(MAKE) build packer $(DEBIAN_IMAGE)
	@$(AS_ROOT) scripts/demo dist/$(PLUGIN) $(PACKER) $(DEBIAN_IMAGE)

.PHONY: build
build: dist/$(PLUGIN) ## dist/packer-plugin-osc-chroot: the plugin, its Python inside

##@ For developers

.PHONY: build-dev
build-dev: dist/dev/$(PLUGIN) $(VENV)/.installed ## dist/dev/packer-plugin-osc-chroot: runs the source tree's Python
	@echo 'It runs the source tree with: export OSC_CHROOT_PYTHON=$(CURDIR)/$(IN_VENV)'

.PHONY: packer
packer: $(if $(FOUND_PACKER),,build/tools/packer) ## Packer itself: the one on PATH, else built here; prints where
	@echo "$(PACKER)"

.PHONY: generate
generate: $(VENV)/.installed ## Make all generated files again, and format the sources
	PYTHON=$(CURDIR)/$(IN_VENV) proto/generate.sh
	$(IN_VENV) -m packer_plugin_osc_chroot.generate .
	$(VENV)/bin/ruff check --quiet --fix .
	$(VENV)/bin/ruff format --quiet .
	gofmt -w shim tests

.PHONY: lint
lint: $(VENV)/.installed ## Formatting, linters, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy packer_plugin_osc_chroot tests scripts
	@unformatted=$$(gofmt -l shim tests); test -z "$$unformatted" || \
	    { echo "gofmt would change (make generate does it): $$unformatted"; exit 1; }
	$(GO) -C shim vet ./...
	$(GO) -C tests/actionlint tool actionlint $(addprefix ../../,$(wildcard .github/workflows/*.yml))
	@if command -v shellcheck >/dev/null; then echo shellcheck; \
	    shellcheck proto/generate.sh scripts/check-machine scripts/demo scripts/debian-image scripts/debian-root \
	        scripts/bootable-image scripts/check-generated .ci/run; \
	else echo 'shellcheck is not installed: the shell scripts were not linted'; fi

.PHONY: check-generated
check-generated: $(VENV)/.installed ## Fail where a generated file is not what its source makes
	scripts/check-generated

.PHONY: test
test: | check-test ## Everything: lint, generated files, Go and Python tests; no test may be skipped
	@$(MAKE) lint check-generated test-go
	@$(MAKE) test-python
	@$(MAKE) test-vm

.PHONY: test-go
test-go: | check-build ## The shim's tests, with the race detector
	$(GO) -C shim test -race ./...

.PHONY: test-python
test-python: $(VENV)/.installed build packer $(DEBIAN_IMAGE) $(ANSIBLE) | check-test ## The Python tests: unit, root and end-to-end
ifeq ($(AS_ROOT),)
	$(IN_VENV) -m pytest --no-skips --packer=$(PACKER) -m 'not vm'
else
	$(IN_VENV) -m pytest --no-skips -m 'not root and not e2e and not vm'
	$(AS_ROOT) PYTHONDONTWRITEBYTECODE=1 $(IN_VENV) -m pytest --no-skips -p no:cacheprovider --packer=$(PACKER) -m 'root or e2e'
endif

.PHONY: test-vm
test-vm: $(VENV)/.installed build packer $(BOOTABLE) | check-vm ## Builds in a VM that QEMU runs, and their OMIs booted
	$(IN_VENV) -m pytest --no-skips --packer=$(PACKER) tests/vm

.PHONY: test-unit
test-unit: $(VENV)/.installed ## The Python tests that need neither root nor a build
	$(IN_VENV) -m pytest -m 'not root and not e2e and not vm'

.PHONY: bench
bench: $(VENV)/.installed build packer | check-test ## Speed and size beside their lower bounds (RUNS=5, BASE=file, RIVAL=plugin, ONLY=group)
	$(or $(AS_ROOT),env) PYTHONPATH=tests PYTHONDONTWRITEBYTECODE=1 $(IN_VENV) -m bench \
	    --plugin=dist/$(PLUGIN) --packer=$(PACKER) --runs=$(or $(RUNS),5) \
	    $(if $(BASE),--base=$(BASE)) $(if $(RIVAL),--rival=$(RIVAL)) $(addprefix --only=,$(ONLY))

.PHONY: chaos
chaos: $(VENV)/.installed build packer | check-test ## Fail, cancel and kill builds at every point; bad days (CHAOS=0.5: half; SEED=…)
	$(AS_ROOT) PYTHONDONTWRITEBYTECODE=1 $(IN_VENV) -m pytest --no-skips -p no:cacheprovider --packer=$(PACKER) \
	    --chaos=$(CHAOS) --slice=$(SLICE) --builds=$(BUILDS) --seed=$(SEED) \
	    tests/root/test_chaos_build.py tests/e2e/test_chaos_packer.py tests/e2e/test_bad_days.py

CHAOS = 1
SLICE = 1/1
BUILDS = 50

.PHONY: fuzz
fuzz: $(VENV)/.installed ## Bad input of a new seed: templates, messages, answers, names, output (SEED, FUZZ=10 times the usual)
	$(IN_VENV) -m pytest -q -n0 --timeout=3600 --fuzz=$(FUZZ) --seed=$(SEED) tests/unit/test_fuzz.py

FUZZ = 10

.PHONY: template-diff
template-diff: $(VENV)/.installed ## Compare templates with Packer's own SDK, on cases of a new seed (SEED, CASES)
	TEMPLATE_SEED=$(SEED) TEMPLATE_CASES=$(CASES) \
	    $(IN_VENV) -m pytest -q --timeout=600 tests/unit/test_template_differential.py

SEED = $(shell echo $$RANDOM)
CASES = 5000

.PHONY: test-distributions
test-distributions: dist/$(PLUGIN) packer | check-demo ## The plugin in root file systems of Debian 11 to 13 (not in `make test`)
	@$(MAKE) $(DEBIAN_ROOTS:%=build/roots/%)
	$(AS_ROOT) PYTHONDONTWRITEBYTECODE=1 $(IN_VENV) -m pytest --no-skips -p no:cacheprovider --packer=$(PACKER) tests/distributions.py

.PHONY: release
release: $(VENV)/.installed ## VERSION=X.Y.Z: dist/release, all files of a release, the same bytes each time
	@$(IN_VENV) scripts/release.py --version='$(VERSION)' --owner='$(OWNER)' --output=dist/release

.PHONY: lock
lock: $(VENV)/.installed ## Resolve the Python dependencies again (requirements/*.txt)
	$(LOCK) --output-file=requirements/run.txt pyproject.toml
	$(LOCK) --extra=dev --constraint=requirements/run.txt --output-file=requirements/dev.txt pyproject.toml
	$(LOCK) --output-file=requirements/ansible.txt requirements/ansible.in
	$(LOCK) --output-file=requirements/uv.txt requirements/uv.in

# Lock files name versions and hashes; where they come from is each machine's own configuration.
LOCK = CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/bin/pip-compile --quiet --strip-extras \
	--generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: clean
clean: ## Remove everything that was made here, the virtualenv included
	rm -rf build dist $(VENV) $(BUNDLE) $(BUNDLE:.tar.zst=.sha256) *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find packer_plugin_osc_chroot tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# What must be on the machine, said before long work and all at once.
.PHONY: check-build check-test check-vm check-demo
check-build check-test check-vm check-demo:
	@scripts/check-machine $(@:check-%=%)

$(VENV)/.installed: requirements/dev.txt | check-build
	@echo 'Installing the Python dependencies in $(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@# The source tree as a package, wherever the interpreter is started.
	@echo '$(CURDIR)' >"$$($(IN_VENV) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/source-tree.pth"
	@touch $@

$(BUNDLE) &: $(PYTHON_SOURCES) scripts/build_bundle.py scripts/service_entry.py requirements/dev.txt | $(VENV)/.installed
	@echo 'Freezing the Python side (about a minute)'
	$(IN_VENV) scripts/build_bundle.py build/bundle $(@D)

dist/$(PLUGIN): $(GO_SOURCES) $(BUNDLE) | check-build
	$(GO_BUILD) -tags=bundle -o ../$@ .
	@ls -l $@ | awk '{ printf "%s: %.1f MiB\n", $$NF, $$5 / 1048576 }'

dist/dev/$(PLUGIN): $(GO_SOURCES) | check-build
	$(GO_BUILD) -o ../$@ .

# A tool of the tests and the demo; nothing of it is shipped.
build/tools/packer: tests/packer/go.mod tests/packer/go.sum | check-build
	@echo 'There is no packer on PATH: building one (some minutes the first time)'
	$(GO) -C tests/packer build -trimpath -ldflags='-s -w' -o ../../$@ github.com/hashicorp/packer

build/tools/packer-plugin-ansible: tests/packer-plugin-ansible/go.mod tests/packer-plugin-ansible/go.sum | check-build
	@echo 'Building the Ansible provisioner for the tests'
	$(GO) -C tests/packer-plugin-ansible build -trimpath -ldflags='-s -w' -o ../../$@ github.com/hashicorp/packer-plugin-ansible

build/ansible/.installed: requirements/ansible.txt | check-build
	@echo 'Installing Ansible in build/ansible for the tests'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r $<
	@touch $@

$(DEBIAN_IMAGE): scripts/debian-image scripts/debian-root | check-demo
	$(AS_ROOT) scripts/debian-image $@

# The plugin that makes it may be an older one: the tests that follow use the new one.
$(BOOTABLE) &: scripts/bootable-image examples/from-scratch.pkr.hcl | build packer check-vm
	$(AS_ROOT) scripts/bootable-image dist/$(PLUGIN) $(PACKER) $(BOOTABLE)

build/roots/%: scripts/debian-root | check-demo
	@echo 'Making a root file system of Debian $* (about a minute; once)'
	@mkdir -p $(@D)
	$(AS_ROOT) scripts/debian-root $* $@
	@touch $@
