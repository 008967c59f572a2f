# What a user or a maintainer does with this tree. Everything goes into .venv and build folders inside it;
# only `make test`, `conformance` and `bench` may install Debian packages (nginx, curl ...), and only if they run as root or sudo needs no password.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= python3
FUZZ_SECONDS ?= 60
JOBS ?= $(shell expr $$(nproc) + 1)
ARGS ?=
BIN := .venv/bin
CARGO := cargo
# command:package, what the tests and the benchmarks call beside Python packages
TEST_TOOLS := nginx:nginx curl:curl nc:netcat-openbsd wrk:wrk setpriv:util-linux openssl:openssl h2load:nghttp2-client haproxy:haproxy chromium:chromium knotd:knot dnsmasq:dnsmasq-base
CONFORMANCE_TOOLS := openssl:openssl testssl:testssl.sh
BENCH_TOOLS := nginx:nginx haproxy:haproxy wrk:wrk h2load:nghttp2-client
COMPILED := $(shell sed -n '/^compiled = \[/,/^\]/s/^ *"\(.*\)",$$/\1/p' pyproject.toml)
BUILD_FILES := pyproject.toml setup.py $(COMPILED) $(wildcard native/Cargo.* native/src/*.rs native/build.rs)

.PHONY: help demo test check conformance bench fuzz clean
help:  ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/.installed  ## install edgeproxy into .venv and run its demo
	@exec $(BIN)/edgeproxy demo $(ARGS)

# Most tests wait for something, so more of them run at once than there are cores; those that measure run by themselves.
# pytest says 5 where ARGS leaves nothing to run.
test: .venv/.dev  ## all tests (ARGS="-k name" for some)
	@$(call tools,$(TEST_TOOLS))
	$(BIN)/python -m pytest -m alone $(ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest -m "not alone" -n $(JOBS) --dist worksteal $(ARGS) || [ $$? = 5 ]

check: .venv/.dev  ## ruff, mypy, the layering test, clippy and the crate's own tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py
	@if ! command -v $(CARGO) >/dev/null; then echo "check: no cargo, native/ was NOT checked"; exit 0; fi; set -x; \
	export PYO3_PYTHON="$$PWD/$(BIN)/python"; \
	$(CARGO) clippy --manifest-path native/Cargo.toml --locked --all-targets -- -D warnings; \
	$(CARGO) test --manifest-path native/Cargo.toml --locked --no-default-features

conformance: .venv/.dev  ## h2spec (HTTP/2, both engines) and testssl.sh (TLS) against edgeproxy
	@$(call tools,$(CONFORMANCE_TOOLS))
	@$(h2spec)
	$(BIN)/python tests/conformance/run.py $(ARGS)

bench: .venv/.dev .venv/.bench  ## speed: the pieces, then side by side with nginx, HAProxy, Envoy, Traefik, Caddy
	@$(call tools,$(BENCH_TOOLS))
	$(BIN)/python bench/micro/run.py --quick
	$(BIN)/python bench/peers/run.py $(ARGS)

fuzz: .venv/.dev .venv/.fuzz  ## every target in tests/fuzz for FUZZ_SECONDS (60)
	@shopt -s nullglob; targets=(tests/fuzz/fuzz_*.py); \
	if [ "$${#targets[@]}" = 0 ]; then echo "no targets in tests/fuzz"; exit 1; fi; for target in "$${targets[@]}"; do \
	  corpus="tests/fuzz/corpus/$$(basename "$$target" .py)"; mkdir -p "$$corpus"; \
	  echo "== $$target, $(FUZZ_SECONDS) s"; $(BIN)/python "$$target" -max_total_time=$(FUZZ_SECONDS) "$$corpus"; \
	done

clean:  ## remove .venv and everything that was built
	rm -rf .venv build dist native/target *.egg-info 
	find edgeproxy -name '*.so' -delete
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- below: how .venv comes about ---
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edgeproxy needs Python 3.11 or newer as '$(PYTHON)'. Debian 12 and later: apt-get install python3 python3-venv. Another one: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments. Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

define install
	@echo "installing edgeproxy into .venv$(if $(1), with what [$(1)] needs)"
	@$(BIN)/pip install --quiet -e '.$(if $(1),[$(1)])'
	@$(BIN)/python -c 'from edgeproxy.codec._leaf import ENGINE as e; from edgeproxy import sessions; s = sessions(); \
	  print(f"codec: {e}" + ("" if e == "native" else " (Python; the native one, which costs less CPU, needs cargo)")); \
	  print(f"sessions: {s}" + ("" if s == "compiled" else " (compiled ones, which cost less CPU, need a C compiler)"))'
	@touch .venv/.installed $@
endef

.venv/.installed: $(BUILD_FILES) | $(BIN)/python
	$(call install,)

.venv/.dev: $(BUILD_FILES) | $(BIN)/python
	$(call install,dev)

.venv/.bench: bench/requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet -r $<
	@touch $@

.venv/.fuzz: pyproject.toml | $(BIN)/python
	$(call install,fuzz)

# Installs the Debian packages of missing commands where that needs no question, else names them and goes on.
define tools
missing=""; for tool in $(1); do command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool#*:}"; done; \
if [ -n "$$missing" ]; then \
  if ! command -v apt-get >/dev/null; then become="false"; elif [ "$$(id -u)" = 0 ]; then become="env"; else become="sudo -n"; fi; \
  echo "installing$$missing"; \
  { $$become apt-get update -q && $$become DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; } \
    </dev/null >.venv/apt.log 2>&1 || echo "MISSING, please install:$$missing (on Debian: sudo apt-get install$$missing)"; \
fi
endef

# Builds h2spec once, into build/ like everything that is built; where that cannot be done, says so and goes on.
define h2spec
if [ ! -x build/tools/h2spec ]; then \
  mkdir -p build/tools; \
  if ! command -v go >/dev/null; then echo "conformance: no go, so no h2spec (on Debian: apt-get install golang-go)"; \
  else echo "building h2spec"; GOBIN="$$PWD/build/tools" GOPATH="$$PWD/build/go" GOCACHE="$$PWD/build/go/cache" \
    go install -modcacherw github.com/summerwind/h2spec/cmd/h2spec@latest >build/tools/h2spec.log 2>&1 \
    || { echo "conformance: h2spec was not built:"; tail -n5 build/tools/h2spec.log; }; fi; \
fi
endef
