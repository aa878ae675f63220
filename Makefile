# On a new machine the first target that needs a Debian package installs it; `.ci/packages` says which.
PYTHON ?= python3
DIST ?= dist

# Each process of pytest's would compile all tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv demo test bench deb clean

venv: .venv/bin/mountd

demo: .venv/bin/mountd
	@examples/demo

test: .venv/bin/mountd
	@.ci/packages test
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	@.venv/bin/pytest --collect-only --quiet >/dev/null & .venv/bin/mypy; status=$$?; wait; exit $$status
	.venv/bin/pytest --quiet --numprocesses 5 --dist loadfile --no-loadscope-reorder
	.venv/bin/python tests/lowest.py --quiet --numprocesses 5 --dist loadfile

bench: .venv/bin/mountd
	PYTHONPATH=tests .venv/bin/python -m benchmarks

deb:
	@.ci/packages deb
	$(PYTHON) tests/package.py $(DIST)

# The install is editable; its byte code is made here, because an environment may forbid Python to.
.venv/bin/mountd: pyproject.toml
	@PYTHON=$(PYTHON) .ci/packages build
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	.venv/bin/python -m compileall -q src
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
