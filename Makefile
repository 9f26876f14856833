# make train [ARGS="model=transformer seed=2"]      make test      make parity      make reliability      make format
# The first call makes .venv. PYTHON=... names the Python (3.11 to 3.13), PIP_ARGS=... goes to pip.

PIP = .venv/bin/python -m pip --disable-pip-version-check install $(PIP_ARGS) --constraint constraints.txt
READY = .venv/ready
# A .venv whose Python has gone is as good as none.
$(shell .venv/bin/python -c '' 2>/dev/null || rm -f $(READY))

# Tests start many processes, each of which would compile seqlab anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test parity reliability format

train: $(READY)
	.venv/bin/python -m seqlab.train $(ARGS)

test: $(READY)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS) --nbmake tests notebooks

# Every task and model in every format of export, against eager mode, in half an hour of a core.
parity: $(READY)
	PARITY_TABLE=docs/parity.md .venv/bin/python -m pytest $(ARGS) -m parity tests/exporting

# The fault trials at full size, in some three minutes: real processes, with their figures. Nothing else should run beside.
reliability: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest $(ARGS) -m reliability -rP tests/reliability

format: $(READY)
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Without the stamp an earlier installation broke off: begin anew. With it, only what has changed is installed.
$(READY): pyproject.toml constraints.txt
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	  if $$python -c 'import ensurepip, venv, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then test -f $@ || $$python -m venv --clear .venv; exit; fi; \
	done; \
	echo 'seqlab needs Python 3.11, 3.12 or 3.13 with its venv module; name one: make train PYTHON=/path/to/python3.12' >&2; \
	exit 1
	@rm -f $@
	@echo 'An index may offer torch as a GPU build of several GB; PIP_ARGS="--extra-index-url ..." adds one with CPU builds.'
	$(PIP) setuptools hatchling
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@
