# make serve: set everything up, and serve the default model.   make test: set everything up, and run the tests.
# make chat: talk with the default model in the terminal.
# make web: build the web app, which make serve and make test do too, or say why that is impossible.
# make screenshots: the pictures in docs/images anew, which needs Chromium.
# make native: compile the native kernels, which set-up does too, and show the compiler's warnings.
# Set-up is skipped as long as the files it depends on have not changed; it looks itself at those of the web app.

.PHONY: serve chat test lint web screenshots native sanitize clean
.NOTPARALLEL:

PYTHON := .venv/bin/python
NATIVE := millet/kernels/native
SETUP := pyproject.toml requirements.lock scripts/setup $(NATIVE)/build.py $(NATIVE)/src $(wildcard $(NATIVE)/src/*)

# $(call npm,ARGUMENTS) where the web app has been set up.
WEB := $(PYTHON) scripts/web.py
npm = if $(WEB) --tests --check; then $(WEB) npm $(1); else echo "The web app is not set up and left out" >&2; fi

serve:
	@scripts/setup web
	@.venv/bin/millet serve

chat: .venv/ready
	@.venv/bin/millet chat

# Both always run; pytest's summary comes last, and behind it what failed of the web app, which else scrolled away.
test:
	@scripts/setup test
	@rm -f .venv/web-status; { { $(call npm,test); }; echo $$? >.venv/web-status; } 2>&1 | tee .venv/web-tests; \
	$(PYTHON) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder || exit; \
	[ "$$(cat .venv/web-status)" = 0 ] || { tail -n 100 .venv/web-tests; echo "The web app's tests failed; run $(WEB) npm test"; exit 1; } >&2

lint:
	@scripts/setup test
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@$(call npm,run check)

web:
	@MILLET_WEB=required scripts/setup web

screenshots:
	@MILLET_WEB=required scripts/setup test
	@$(PYTHON) -m scripts.screenshots

native: .venv/ready
	@$(PYTHON) -m millet.kernels.native.build

# The kernels' tests under gcc's AddressSanitizer and UndefinedBehaviorSanitizer. Python is not linked with them, so they
# must be loaded first; and libstdc++ with them, as they look for its exceptions when they start.
sanitize: .venv/ready-test
	@CXX="$(CXX)" $(PYTHON) -m millet.kernels.native.build --sanitize
	@LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		MILLET_NATIVE_LIBRARY=$(NATIVE)/_native_asan.so \
		$(PYTHON) -m pytest -q tests/kernels --ignore tests/kernels/test_variants.py --ignore=tests/kernels/test_native_build.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis $(NATIVE)/_native* $(NATIVE)/.build-*
	rm -rf web/node_modules millet/serve/web millet/serve/.web-*

.venv/ready: $(SETUP)
	@scripts/setup run

.venv/ready-test: $(SETUP)
	@scripts/setup test
