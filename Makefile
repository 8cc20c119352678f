# make setup   .venv with everything, pinned        make demo    the main job on a phantom, results under demo/
# make test    the test suite                       make lint    ruff and mypy
#              COVERAGE=yes prints its coverage     make wheel   sdist and wheel in dist/, the wheel tried outside of the checkout
# make portable   types and tests as on Windows; TESTS=tests/system for a part
# make simulated   the tests of a GPU on a simulated one, which finds mixed devices and waits (needs g++)
# make docs    the site, in build/site           make accessibility   checks it and a report (needs npm, Chromium)
# make bench   benchmarks, results in bench/results make release the wheel, and all that publishing asks for checked
# make docker  the image unet4d (needs a Docker engine)
# make chroot  the image's steps and the main job in a chroot (needs root and debootstrap, no Docker)
# make pretrained   dist/pretrained_cine.unet4d, trained on phantoms, for the experiment on such a start; BUDGET=30m of CPU time
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint wheel release portable simulated docs accessibility bench pretrained docker chroot clean
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unet4d needs Python 3.11 or newer; run: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python experiments/demo.py demo

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 1 $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel is built from the sdist, so that the sdist is whole; then it is installed with its own dependencies in a bare environment and
# called from outside of the checkout.
wheel:
	rm -rf build/tools build/venv build/lib build/bdist.* dist/unet4d-*
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build
	build/tools/bin/python -m build --outdir dist > build/log.txt || { cat build/log.txt; exit 1; }
	build/tools/bin/python deploy/check_release.py dist
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/unet4d-*.whl
	cd / && $(CURDIR)/build/venv/bin/unet4d --version
	cd / && $(CURDIR)/build/venv/bin/unet4d --help > /dev/null
	cd / && $(CURDIR)/build/venv/bin/python -c "import unet4d; print('imported from', unet4d.__file__)"

# TAG=v0.1.0 is compared with the version, which pyproject.toml alone has.
release: wheel
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt twine
	build/tools/bin/python -m twine check --strict dist/unet4d-*
	build/tools/bin/python deploy/check_release.py dist --files $(if $(TAG),--tag $(TAG))

# Types as Windows and macOS have them; then tests, with all hidden from the package that Windows lacks.
portable: setup
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/python -m pytest -p tests.masking -o timeout_method=thread -n auto --dist loadfile $(TESTS)

# The tests that are marked gpu, without a GPU.
simulated: setup
	$(BIN)/python -m tests.simulated_gpu.build
	$(BIN)/python -m pytest -p tests.simulated_gpu.plugin -m gpu -n 0 $(or $(TESTS),tests/test_gpu.py)

# Strictly: a warning or a broken link is an error. Nothing is fetched while it is built or read.
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	cd docs && $(CURDIR)/$(BIN)/python -m generate

# Every rule of axe-core, at desktop and phone width, light and dark; PAGES=build/site/index.html for some pages alone.
accessibility: docs
	cd docs/accessibility && npm ci --silent
	$(BIN)/python docs/accessibility/check.py $(PAGES)

bench: setup
	$(BIN)/python -m bench

pretrained: setup
	$(BIN)/python experiments/pretrained.py dist/pretrained_cine.unet4d --budget $(or $(BUDGET),30m)

docker:
	docker build -t unet4d .

chroot:
	$(PYTHON) deploy/chroot.py

clean:
	rm -rf $(VENV) demo bench/results build dist *.egg-info
