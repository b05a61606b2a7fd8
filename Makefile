# make run    start pysmtpd from this checkout, on 127.0.0.1:2525    (PORT=2525)
# make test   all tests: those of the parts at once, then those with the real daemon
# make check  style, types, and all tests
# make bench  against Postfix and OpenSMTPD, on this machine
# make check-next  the tests again with the newest Python found
#
# Needs python3 (3.11 or newer), python3-venv and make; the rest comes from pip, into a directory of its own.

# The system's own Python where it will do: a daemon of root should not need an interpreter in somebody's home, and
# distributions optimise theirs better than most that were built by hand (a third less CPU per message).
PYTHON ?= $(shell /usr/bin/python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
            && echo /usr/bin/python3 || echo python3)
PORT ?= 2525
SOURCES = pysmtpd smtpctl tests bench docs/generate.py

# Root leaves nothing of its own in somebody else's checkout: neither a virtual environment nor caches.
ME := $(shell id -u)
OWNER := $(shell stat -c %u . 2>/dev/null || stat -f %u .)
ifeq ($(ME),$(OWNER))
VENV ?= .venv
else
VENV ?= /var/cache/pysmtpd-test/venv
CACHE = /var/cache/pysmtpd-test
export PYTHONDONTWRITEBYTECODE = 1
export RUFF_CACHE_DIR = $(CACHE)/ruff
export MYPY_CACHE_DIR = $(CACHE)/mypy
export HYPOTHESIS_STORAGE_DIRECTORY = $(CACHE)/hypothesis
NOCACHE = -p no:cacheprovider
endif
PYTEST = $(VENV)/bin/python -m pytest $(NOCACHE)

.PHONY: help run test unit e2e check lint types bench bench-tls bench-crowd check-next clean

help:
	@sed -n 's/^# //p' Makefile | head -6

run:
	@PYTHON=$(PYTHON) PORT=$(PORT) sh etc/try.sh

$(VENV)/.dev: pyproject.toml
	@$(VENV)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

test: unit e2e

unit: $(VENV)/.dev
	$(PYTEST) -q -n auto -m "not e2e"

e2e: $(VENV)/.dev
	$(PYTEST) -q -n 2 --dist loadfile -m e2e

check: lint types test

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check $(SOURCES)

types: $(VENV)/.dev
	$(VENV)/bin/mypy $(SOURCES)

bench: $(VENV)/.dev
	$(VENV)/bin/python -m bench

bench-tls: $(VENV)/.dev
	$(VENV)/bin/python -m bench.tls

bench-crowd: $(VENV)/.dev
	$(VENV)/bin/python -m bench.crowd

# The newest interpreter that works here.
NEXT = $(shell for v in 3.15 3.14 3.13 3.12; do python$$v -c '' 2>/dev/null && { echo python$$v; break; }; done)
check-next:
	@test -n "$(NEXT)" || { echo "there is no Python newer than 3.11 here" >&2; exit 1; }
	@echo "with $(NEXT)"
	@$(NEXT) -m venv .venv-next
	@.venv-next/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	.venv-next/bin/python -m pytest -q -n auto -m "not e2e"
	.venv-next/bin/python -m pytest -q -n 2 --dist loadfile -m e2e

clean:
	rm -rf .venv .venv-next .run .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
