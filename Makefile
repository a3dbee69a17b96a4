# make demo       train DEIM on the embedded data set, evaluate it and draw its predictions
# make demo-deyo  train DEYO step by step, and at once from scratch, and compare them
# make deploy     install what export needs: ONNX, ONNX Runtime, OpenVINO, TensorRT for RTX, mmdeploy
# make test       run the tests
# make lint       check style
#
# The first call of any of them creates .venv and installs what it needs; later calls find it done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
INSTALLED_DEPLOY := $(VENV)/installed-deploy

.PHONY: demo demo-deyo deploy test test-models test-others test-deployment test-tools lint format \
  install clean

demo: $(INSTALLED)
	$(BIN)/python tools/demo.py

demo-deyo: $(INSTALLED)
	$(BIN)/python tools/demo_deyo.py

deploy: $(INSTALLED_DEPLOY)

# Two processes of one thread each are faster than one of two. A test that hangs, in native code too,
# ends its process with the stacks of all threads.
test: $(INSTALLED_DEPLOY)
	$(MAKE) --jobs 2 --output-sync=target test-deployment test-others test-models test-tools

test-models: TESTS := tests/test_models
test-deployment: TESTS := tests/test_deploy
test-tools: TESTS := tests/test_tools
test-others: TESTS := tests $(addprefix --ignore tests/test_,models deploy tools)
test-models test-deployment test-tools test-others: $(INSTALLED_DEPLOY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS) -m 'not slow' -q \
	  --timeout 300 --timeout-method thread

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

# OpenCV's ordinary build wants libGL from the system; where that is missing, its headless build of
# the same version takes its place.
$(INSTALLED): requirements.txt setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-build-isolation --no-deps -e .
	$(BIN)/python -c 'import cv2' || $(BIN)/python -m pip install --force-reinstall --no-deps \
	  "opencv-python-headless$$(sed -n 's/^opencv-python\(==.*\)/\1/p' requirements.txt)"
	touch $@

$(INSTALLED_DEPLOY): $(INSTALLED) requirements-deploy.txt
	$(BIN)/python -m pip install -r requirements-deploy.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
