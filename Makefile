# Two commands: `make chat` and `make test`. Both set up what they need in .venv.

PYTHON ?= python3
BIN := .venv/bin

# Most tests wait for something most of the time: four files at a time.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: chat test check quick soak lint types manual bench clean

chat: .venv/run
	@$(BIN)/python -m pbal check examples/chat.conf
	@echo
	@echo "  The chat:     http://127.0.0.1:8080/    open it in two windows"
	@echo "  The console:  telnet 127.0.0.1 16000    then: show parked    help    quit"
	@echo "  A message:    curl -d 'hello' http://127.0.0.1:8080/publish/lobby"
	@echo "  Ctrl-C ends it."
	@echo
	@exec $(BIN)/python -m pbal -c examples/chat.conf

test: .venv/dev programs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pbal.manual --check
	$(BIN)/python -m pbal.editors --check
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

check: test

quick: .venv/dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

# What `make test` does for seconds, for half an hour: everything at once; a thousand reloads of each plugin under load;
# reloads of everything at random while polls, streams, publishers and requests go on.
soak: .venv/dev programs
	PBAL_SOAK_SECONDS=300 PBAL_RELOADS=1000 PBAL_PROMISE_SECONDS=300 $(BIN)/python -m pytest tests/wire/test_soak.py tests/wire/test_reloading.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

manual: .venv/dev
	$(BIN)/python -m pbal.manual
	$(BIN)/python -m pbal.editors

bench: .venv/dev
	$(BIN)/python -m bench

.venv/run: requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("pbal needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# Programs that tests drive, with their Debian packages. What is missing is installed where that is allowed, and its tests are skipped
# where it is not.
.PHONY: programs
programs:
	@missing=; \
	command -v memcached >/dev/null || missing="memcached"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v chromedriver >/dev/null || missing="$$missing chromium-driver"; \
	test -z "$$missing" && exit 0; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq >/dev/null 2>&1; \
	  for package in $$missing; do \
	    echo "installing $$package"; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null 2>&1 \
	    || echo "left out: $$package could not be installed, its tests are skipped"; \
	  done; \
	else for package in $$missing; do \
	  echo "left out: $$package is not installed, its tests are skipped (as root: apt-get install $$package)"; \
	done; fi

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# --- the compiled build: what every request passes, made an extension module by mypyc (pbal/build.py lists it) -----------
# It is installed in .venv-fast and nowhere else, so that everything above runs pure Python. .venv-fast borrows the rest
# from .venv. PYTHONSAFEPATH keeps the checkout's own pbal/ from being found before the installed one.

FAST := .venv-fast/bin/python
FAST_SOURCES := setup.py pyproject.toml $(shell find pbal grammar -name '*.py' -o -name '*.lark')

.PHONY: fast test-fast bench-fast clean-fast

fast: .venv-fast/done
	@PYTHONSAFEPATH=1 $(FAST) -m pbal --version

.venv-fast/done: $(FAST_SOURCES) .venv/dev
	rm -rf .venv-fast build/wheel
	PBAL_COMPILE=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m venv --without-pip .venv-fast
	$(BIN)/python -m pip --python $(FAST) install --quiet --disable-pip-version-check --no-deps build/wheel/pbal-*.whl
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(FAST) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	@touch $@

# Nothing else works beside it: six files at a time. What these files are about is not compiled, and they wait a long time: signals, the console, the command line, the page, stores of polls, and
# plugins one by one (those that try every fault in every hook are run).
NOT_COMPILED := $(foreach name,signals console console_access console_people perlbal_check status_page metrics check_pbal completing terminal \
	start life browser client client_js listening poll_auth poll_limits poll_memcached poll_positions poll_presence poll_proofs \
	poll_servers side_by_side media_beside_perlbal plugin_accesscontrol plugin_atomstream plugin_autoremoveleadingdir plugin_cgilike \
	plugin_doors plugin_flvstreaming plugin_headers plugin_lazycdn plugin_palimg plugin_queues plugin_redirect plugin_stats \
	plugin_throttle,--ignore=tests/wire/test_$(name).py)

test-fast: .venv-fast/done programs
	PYTHONSAFEPATH=1 PBAL_EXPECT=compiled $(FAST) -m pytest $(SIDE_BY_SIDE) -n 6 -o pythonpath=tests -m "not slow" $(NOT_COMPILED) tests/test_fast.py tests/wire

bench-fast: .venv-fast/done
	PBAL_PYTHON=$(FAST) $(BIN)/python -m bench

clean: clean-fast
clean-fast:
	rm -rf .venv-fast
