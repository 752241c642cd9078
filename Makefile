# Every target sets up what it needs: Debian packages (as root, by apt), then .venv (by pip). The second time is quick.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv
PY := $(VENV)/bin/python
ROUNDS ?= 100
MINUTES ?= 30
SEED ?=
CASES ?=
PROVE ?= 1m
INPUTS ?= 1000000
SESSIONS ?= 10000
ARGS ?=
# Two side by side: processes and guests wait most of the time. What fails is played once more, alone: a machine that
# gives a kernel no processor for seconds breaks links; a fault of ours comes again, and the first failure stays in sight.
# In the order of their names: by xdist's own, files with few tests come last, and those take longest.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
ALONE := --last-failed --last-failed-no-failures none
PROCESSES := --ignore=tests/interop --ignore=tests/cluster
GUESTS := tests/interop
NO_TEST_CHOSEN := 5

# Where make install puts things, below DESTDIR. Pacemaker looks for agents in fixed places, whatever PREFIX is.
DESTDIR ?=
PREFIX ?= /usr/local
OCFDIR ?= /usr/lib/ocf/resource.d
FENCEDIR ?= /usr/sbin
PLACES = DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' OCFDIR='$(OCFDIR)' FENCEDIR='$(FENCEDIR)'
SOURCES := pyproject.toml setup.py $(wildcard native/*.c native/*.h native/build.py)

# A .venv of another place, of a Python that is gone, or without the extension is no .venv.
STALE := $(shell tools/setup check || rm -f $(VENV)/*.stamp)

.PHONY: help venv demo test test-all prove fuzz rounds endurance soak devices lint bench growth lab man pictures install dist deb image uninstall clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1 /p' Makefile | \
		while read -r name what; do printf '  make %-9s %s\n' "$$name" "$$what"; done
	@echo '  Further words for the command go into ARGS, as in: make demo ARGS=--keep, make test ARGS="-k bitmap -x"'

venv: $(VENV)/dev.stamp ## .venv with pydrbd, and all that the tests and checks need
	@echo "$(VENV) is ready"

demo: $(VENV)/run.stamp ## two nodes, a client, two crashes, and a comparison: see it work
	@$(VENV)/bin/pydrbd demo $(ARGS)

test: $(VENV)/dev.stamp ## all tests but the slow ones
	@tools/setup packages test
	@$(PY) -m pytest -m "not slow" $(PROCESSES) $(TWO) $(ARGS) || [ $$? -eq $(NO_TEST_CHOSEN) ] || \
		$(PY) -m pytest -m "not slow" $(PROCESSES) $(ALONE) $(ARGS)
	@$(PY) -m pytest -m "not slow" $(GUESTS) $(TWO) $(ARGS) || [ $$? -eq $(NO_TEST_CHOSEN) ] || \
		$(PY) -m pytest -m "not slow" $(GUESTS) $(ALONE) $(ARGS)
	@$(PY) -m pytest -m "not slow" tests/cluster -o faulthandler_timeout=0 $(ARGS) || [ $$? -eq $(NO_TEST_CHOSEN) ]

test-all: $(VENV)/dev.stamp ## all tests
	@tools/setup packages test-all
	@$(PY) -m pytest --ignore=tests/interop $(ARGS)
	@$(PY) -m pytest $(GUESTS) $(TWO) $(ARGS) || [ $$? -eq $(NO_TEST_CHOSEN) ] || $(PY) -m pytest $(GUESTS) $(ALONE) $(ARGS)

prove: $(VENV)/dev.stamp ## stories, broken writes, strange bytes, canaries for PROVE=1m; a table, a report
	@nice $(PY) -m tests.prove --time $(PROVE) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: $(VENV)/dev.stamp ## INPUTS=1000000 by coverage on the parsers, SESSIONS=10000 on a live pair; SEED=N plays them again
	@nice $(PY) -m tests.fuzz --inputs $(INPUTS) --sessions $(SESSIONS) $(if $(SEED),--seed $(SEED)) $(ARGS)

rounds: $(VENV)/dev.stamp ## the long crash run: ROUNDS=100 times write, kill, restart, resync, compare
	@$(PY) -m pytest tests/chaos/test_rounds.py --progress --timeout=0 -o faulthandler_timeout=0 --rounds=$(ROUNDS) --seed=draw $(ARGS)

endurance: $(VENV)/run.stamp ## random operations on a kernel and pydrbd for MINUTES=30; SEED=N plays a run again (needs root)
	@tools/setup packages lab
	@$(PY) -m tests.endurance --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: $(VENV)/dev.stamp ## the native code under the sanitizers, for MINUTES=10, or CASES=10000000 beside its twins; SEED=N plays them again
	@$(PY) -m tests.native.soak --minutes $(MINUTES) $(if $(CASES),--cases $(CASES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

devices: $(VENV)/dev.stamp ## file systems, LVM and a machine in QEMU on a kernel's device, and what may happen below (needs root)
	@tools/setup packages test
	@$(PY) -m pytest tests/interop/test_nbd_attach.py tests/interop/test_lvm.py -v -o faulthandler_timeout=0 $(ARGS)

lint: $(VENV)/dev.stamp ## ruff, mypy --strict, and the repository's own rules
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m tests.tidy_rules

pictures: $(VENV)/dev.stamp ## those of README.md, in docs/pictures
	@$(PY) tools/pictures.py

bench: $(VENV)/bench.stamp ## measure a pair beside nbdkit and QEMU's synchronous copies, with fio; pictures too
	@tools/setup packages bench
	@$(PY) -m benchmarks $(ARGS)
	@$(PY) -m benchmarks.plots

growth: $(VENV)/bench.stamp ## measure how a pair's cost grows, along one dimension after the other; pictures too
	@tools/setup packages bench
	@$(PY) -m benchmarks.growth $(ARGS)
	@$(PY) -m benchmarks.plots

cluster: $(VENV)/dev.stamp ## a Pacemaker cluster of three machines in the lab, and all that may happen to it (needs root)
	@tools/setup packages cluster
	@$(PY) -m pytest tests/cluster -v -o faulthandler_timeout=0 $(ARGS)

lab: $(VENV)/run.stamp ## two real kernels with DRBD, as processes of this machine, to play with (needs root)
	@tools/setup packages lab
	@$(PY) -m tests.lab

man: $(VENV)/man.stamp ## the manual pages, in build/man, and the completion for bash
	@rm -rf build/man
	@$(PY) tools/manpages.py build/man
	@$(PY) tools/completion.py build/pydrbd.bash

install: man ## the commands, agents, units and manual pages, below DESTDIR and PREFIX (/usr/local)
	@$(PLACES) tools/install install

dist: $(VENV)/dev.stamp ## a source archive, and from it a wheel, in dist (built in isolation)
	@rm -rf dist
	@$(PY) -m build --outdir dist .

deb: man ## a Debian package for this machine's Python, in build/deb
	@tools/deb

image: ## an image for containers, by podman or buildah (tools/image says what else it may be told, as BASE=apt)
	@tools/setup packages image
	@tools/image

uninstall: ## remove what make install has made, with the same DESTDIR and PREFIX
	@$(PLACES) tools/install uninstall

clean: ## remove all that make made, .venv too
	@rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@rm -f pydrbd/_native*.so pydrbd/_native*.c pydrbd/_native*.o native/*.o
	@find pydrbd native tests benchmarks fence -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/run.stamp: $(SOURCES)
	@tools/setup packages build
	@tools/setup venv
	@touch $@

$(VENV)/dev.stamp: $(SOURCES)
	@tools/setup packages build
	@tools/setup venv test,lint,bench
	@touch $(VENV)/run.stamp $(VENV)/man.stamp $(VENV)/bench.stamp $@

$(VENV)/bench.stamp: $(SOURCES)
	@tools/setup packages build
	@tools/setup venv bench
	@touch $(VENV)/run.stamp $@

$(VENV)/man.stamp: $(SOURCES)
	@tools/setup packages build
	@tools/setup venv man
	@touch $(VENV)/run.stamp $@
