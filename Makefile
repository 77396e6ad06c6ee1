# Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON must be 3.10 or newer; the environment is made in .venv.

PYTHON ?= python3
EXTRAS ?= test
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-systems lint interop docs bench clean

demo: $(VENV)/installed
	$(BIN)/facepack synth demo/faces --identities 400 --images-per-identity 25 --pairs 2000 --bin-name lfw --overwrite
	$(BIN)/facepack rec2lmdb demo/faces demo/packs/faces --overwrite
	$(BIN)/facepack bin2lmdb demo/faces/lfw.bin demo/packs/lfw --overwrite
	$(BIN)/facepack inspect demo/packs/faces
	$(BIN)/facepack train --shards demo/packs/faces --config cpu_tiny --set epochs=8 --val lfw=demo/packs/lfw --out demo/run --overwrite
	$(BIN)/facepack eval lfw --model demo/run --data demo/packs --report demo/evaluation.html

test: $(VENV)/installed-$(EXTRAS)
	$(BIN)/python -m pytest -n 2

# Data, loading and training on the CPU as on other systems: without what Windows lacks, where each
# process is spawned; and as Python 3.14 starts processes on Linux.
SYSTEMS := tests/store/test_pack.py tests/store/test_lock.py tests/care/test_verify.py \
	tests/convert/formats/pack/test_to_pack.py tests/convert/formats/rec/test_recordio.py \
	tests/convert/formats/zip/test_zip_source.py tests/convert/formats/tar/test_tar.py \
	tests/convert/formats/tree/test_to_tree.py tests/loading/test_loader.py \
	tests/loading/test_torch_view.py tests/train/commands/test_train_command.py

test-systems: $(VENV)/installed-$(EXTRAS)
	mkdir -p build
	PYTHONPATH=tests/bare $(BIN)/python -m pytest -n 2 -p no:warnings --basetemp build/bare --start-method spawn $(SYSTEMS)
	$(BIN)/python -m pytest -n 2 --start-method forkserver $(SYSTEMS)

lint: $(VENV)/installed-test $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The type checker wants the installed layout: convert/ is facepack.convert, and so on.
	rm -rf build/types && mkdir -p build/types/facepack
	ln -s $(CURDIR)/facepack/* $(CURDIR)/convert $(CURDIR)/train $(CURDIR)/evaluate build/types/facepack
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file ../../pyproject.toml

# MXNet is long dead, so it lives in an environment of its own, with Python 3.11 at the newest.
MXNET_PYTHON ?= $(PYTHON)
MXNET := .venv-mxnet
DATASETS := .venv-datasets

interop: $(VENV)/installed-test,parquet $(MXNET)/installed $(DATASETS)/installed build/simd/installed build/webdataset/installed
	PYTHONPATH=build/webdataset FACEPACK_MXNET_PYTHON=$(CURDIR)/$(MXNET)/bin/python \
		FACEPACK_DATASETS_PYTHON=$(CURDIR)/$(DATASETS)/bin/python $(BIN)/python -m pytest tests/interop
	PYTHONPATH=build/simd $(BIN)/python -c "import PIL; assert 'post' in PIL.__version__, PIL"
	PYTHONPATH=build/simd $(BIN)/python -m pytest tests/test_images.py tests/loading

# The pages as a site, build/site/index.html: a warning, such as a link that leads nowhere, is an error.
docs: $(VENV)/installed-docs
	rm -rf build/docs build/site
	$(BIN)/python docs/gather.py build/docs
	$(BIN)/python -m sphinx -q -W --keep-going -c docs build/docs build/site

bench: $(VENV)/installed-$(EXTRAS)
	$(BIN)/python benchmarks/loader.py demo/packs/faces
	$(BIN)/python benchmarks/convert.py --folder demo/bench

clean:
	rm -rf build demo $(VENV) $(MXNET) $(DATASETS)

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'facepack needs Python 3.10 or newer; set PYTHON=…')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

# One mark for each choice of extras, for instance installed-test,dali.
$(VENV)/installed-%: $(VENV)/installed
	$(PIP) -e '.[$*]'
	touch '$@'

$(MXNET)/installed:
	$(MXNET_PYTHON) -m venv $(MXNET)
	$(MXNET)/bin/python -m pip install --quiet --disable-pip-version-check 'mxnet==1.9.1' 'numpy<1.24'
	touch $@

# The readers of WebDataset tars, without what they depend on: torch and NumPy are there.
build/webdataset/installed: $(VENV)/installed
	rm -rf build/webdataset
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/webdataset webdataset==1.0.2 wids==0.1.11 braceexpand==0.1.7 pyyaml==6.0.4
	touch $@

$(DATASETS)/installed:
	$(PYTHON) -m venv $(DATASETS)
	$(DATASETS)/bin/python -m pip install --quiet --disable-pip-version-check 'datasets>=5' Pillow
	touch $@

# pillow-simd is a drop-in for Pillow that cannot be installed beside it: it goes first on the path.
build/simd/installed: $(VENV)/installed
	rm -rf build/simd
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/simd pillow-simd
	touch $@
