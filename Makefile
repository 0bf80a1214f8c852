# The two commands a newcomer needs: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/movies.yaml

# `make test-wheel TORCH='==2.10.*'` runs the tests of operators and modules of one wheel under another torch.
TORCH ?= >=2.10
DIST ?= $(subst $(comma),-,dist$(addprefix /,$(ISAS))$(addprefix /,$(CUDA_ARCHS)))
comma := ,
WHEEL_VENV ?= build/wheel-venv
WITH ?= transformers timm open_clip_torch
TESTED ?= tests/native tests/nn --ignore tests/native/test_arm.py --ignore tests/native/test_kernels.py

# The set-ups install the versions of this file; with `CONSTRAINTS=`, a new environment gets the newest ones.
CONSTRAINTS ?= constraints.txt
PINS = $(addprefix --constraint ,$(CONSTRAINTS))

# `make test-transformers TRANSFORMERS=4.56` runs the tests of checkpoints under another transformers.
TRANSFORMERS ?= 4.57

.PHONY: demo test test-latest constraints test-gpu mutants mutants-gpu test-gpu-emulated test-gpu-wheels test-arm test-amx test-wheel test-transformers kills lint format build bench results wheel wheels browser docs fuzz recipe-keys readme clean

demo: $(VENV)/demo.stamp
	$(BIN)/kdnative run $(RECIPE) --overwrite

# Test files are spread over this many processes (1: no extra processes). Waiting threads must not spin on a core that
# another process needs.
WORKERS ?= 2
test: $(VENV)/dev.stamp browser
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS) --dist loadfile --no-loadscope-reorder)

# The same with the newest version of every dependency, in an environment of its own that is made anew.
test-latest:
	rm -rf build/latest-venv
	$(MAKE) test VENV=build/latest-venv CONSTRAINTS=

# Writes constraints.txt anew, from a fresh environment. Commit it once `make test` has passed.
constraints:
	rm -rf build/constraints-venv
	$(PYTHON) -m venv build/constraints-venv
	build/constraints-venv/bin/pip install --quiet '.[bench,dev]'
	build/constraints-venv/bin/python tools/constraints.py

# Does the kernel harness notice a mistake? About an hour.
mutants: $(VENV)/dev.stamp
	$(BIN)/python tests/native/mutate_kernels.py

# Do the tests of GPU kernels notice a mistake? No GPU is needed (docs/gpu_testing.md). ONLY=TEXT takes a part of the list.
mutants-gpu: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.gpu.mutate --jobs $(WORKERS) $(if $(ONLY),--only '$(ONLY)')

# The GPU kernels on the emulator and the interpreter, with many shapes.
test-gpu-emulated: $(VENV)/dev.stamp
	KDNATIVE_GPU_GRID=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS)) tests/gpu

# The ARM64 kernels on a machine of another kind: cross-built, and run by an emulator.
test-arm: $(VENV)/dev.stamp
	@{ command -v aarch64-linux-gnu-g++ && { command -v qemu-aarch64 || command -v qemu-aarch64-static; }; } >/dev/null || \
	  { echo "installing a compiler and an emulator for ARM64"; apt-get update -qq && \
	    apt-get install -y -qq g++-aarch64-linux-gnu qemu-user >/dev/null; } || \
	  { echo "install what provides aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user)"; \
	    exit 1; }
	KDNATIVE_REQUIRE_ARM=1 $(BIN)/python -m pytest -s tests/native/test_arm.py

# Everything that AMX runs, on a processor with AVX512_BF16 and no AMX: a wheel whose tiles are computed in software. The
# test that looks for tile instructions in the library can't hold there.
test-amx:
	@grep -qw avx512_bf16 /proc/cpuinfo || { echo "test-amx needs a processor with AVX512_BF16, and this one has none"; exit 1; }
	KDNATIVE_ISA=amx $(MAKE) test-wheel DIST=build/amx-dist WHEEL_VENV=build/amx-venv \
	  WHEEL_OPTIONS=--config-settings=cmake.define.KDNATIVE_EMULATE_AMX=ON TEST_OPTIONS='--ignore tests/native/test_isolation.py'

# What only an NVIDIA GPU can show, within ten minutes: tests, compute-sanitizer, the benchmark. JSON is in build/gpu.
test-gpu: $(VENV)/bench.stamp
	$(BIN)/python -m tools.on_gpu

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

# The table of recipe keys in docs/recipes.md, from the schema; a test says when it is out of date.
recipe-keys: $(VENV)/dev.stamp
	$(BIN)/python -m tools.recipe_keys

# Rebuilds the native library of the development install after a change in csrc/.
build: $(VENV)/dev.stamp
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .

# Every suite, its result as JSON in the folder of this processor, such as benchmarks/results/zen4. Some hours; the soak
# test ends it.
RESULTS ?= benchmarks/results/$(shell $(BIN)/python -m kdnative.machine.environment)
bench: $(VENV)/bench.stamp
	$(BIN)/kdnative bench gemm --json $(RESULTS)/cpu_gemm.json
	$(BIN)/kdnative bench encoder --json $(RESULTS)/cpu_encoder.json
	$(BIN)/kdnative bench vision --json $(RESULTS)/cpu_vision.json
	$(BIN)/kdnative bench texts --json $(RESULTS)/texts.json
	$(BIN)/kdnative bench sparse --json $(RESULTS)/cpu_sparse.json
	$(BIN)/kdnative bench memory --json $(RESULTS)/memory.json
	$(BIN)/kdnative bench accuracy --json $(RESULTS)/accuracy.json
	$(BIN)/kdnative bench quality --threads 2 --json $(RESULTS)/quality.json
	$(BIN)/kdnative bench gate --json $(RESULTS)/gate.json
	$(BIN)/kdnative bench qat --threads 2 --json $(RESULTS)/qat.json
	$(BIN)/kdnative bench logits --json $(RESULTS)/logits.json
	$(BIN)/kdnative bench overhead --json $(RESULTS)/overhead.json
	$(BIN)/kdnative bench soak --json $(RESULTS)/soak.json

# The tables and charts of README.md and docs/, from benchmarks/results. CHECK=--check changes nothing.
readme: $(VENV)/dev.stamp
	$(BIN)/kdnative bench readme $(CHECK)

# The documentation as a site, in build/docs. A warning is an error. It loads nothing from elsewhere.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open build/docs/index.html, or with search: python3 -m http.server --directory build/docs"

# Three seeds of the demo, and of the same with every label, as figures in benchmarks/results/runs. About an hour.
SEEDS ?= 0,1,2
RESULT_RUNS ?= movies movies-all-labels
results: $(VENV)/demo.stamp
	for name in $(RESULT_RUNS); do \
	  $(BIN)/kdnative run recipes/$$name.yaml --seeds $(SEEDS) --runs build/results --overwrite && \
	  $(BIN)/kdnative bench readme --run build/results/$$name-seeds.json || exit 1; \
	done

# `make wheel ISAS=avx2,avx512vnni` leaves the other instruction sets out; the portable reference kernels are always in.
# `make wheel CUDA_ARCHS=sm_80,sm_90` compiles GPU kernels for these, CUDA_ARCHS=none for none: NVRTC does so at first use.
# Left out, all that packages are for, if NVRTC is here.
wheel: $(DIST)/wheel.stamp
	@ls -sh $(DIST)/*.whl

# A wheel for each Python from 3.10 to 3.14 in dist/, built and tested in containers of manylinux by cibuildwheel: it needs
# Docker or Podman. pyproject.toml has the settings.
wheels:
	$(PYTHON) -m venv build/cibuildwheel-venv
	build/cibuildwheel-venv/bin/pip install --quiet cibuildwheel
	build/cibuildwheel-venv/bin/cibuildwheel --platform linux --output-dir dist/all

# Away from the source tree, so that the tests import the installed package; without those that build from sources.
# The folder of the wheel is kept until a source changes: the same wheel serves every torch.
test-wheel: $(DIST)/wheel.stamp
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/pip install --quiet 'torch$(TORCH)' pytest pytest-timeout hypothesis $(WITH)
	$(WHEEL_VENV)/bin/pip install --quiet --force-reinstall --no-deps $(DIST)/*.whl
	$(WHEEL_VENV)/bin/pip install --quiet $(DIST)/*.whl
	rm -rf build/wheel-test && mkdir -p build/wheel-test && cp -r tests csrc pyproject.toml build/wheel-test
	cd build/wheel-test && $(abspath $(WHEEL_VENV))/bin/python -c 'import torch, kdnative; print("torch", torch.__version__, kdnative.__file__)'
	cd build/wheel-test && $(abspath $(WHEEL_VENV))/bin/python -m pytest -q $(TESTED) $(TEST_OPTIONS)

# A wheel with compiled GPU kernels and one without, each installed: no GPU is needed. `TORCH='==2.10.*'` takes another torch.
GPU_WHEELS_VENV ?= build/gpu-wheels-venv
test-gpu-wheels:
	$(MAKE) wheel CUDA_ARCHS=sm_80,sm_90
	$(MAKE) wheel CUDA_ARCHS=none
	$(PYTHON) -m venv $(GPU_WHEELS_VENV)
	$(GPU_WHEELS_VENV)/bin/pip install --quiet 'torch$(TORCH)' numpy safetensors
	$(GPU_WHEELS_VENV)/bin/pip install --quiet --force-reinstall --no-deps dist/sm_80-sm_90/*.whl
	$(GPU_WHEELS_VENV)/bin/python tools/gpu_wheels.py 80 90
	$(GPU_WHEELS_VENV)/bin/pip install --quiet --force-reinstall --no-deps dist/none/*.whl
	$(GPU_WHEELS_VENV)/bin/python tools/gpu_wheels.py

# What transformers builds from a checkpoint differs between its versions: 4.56 and 4.57 are the oldest that are supported.
test-transformers:
	$(MAKE) test-wheel WHEEL_VENV=build/transformers-$(TRANSFORMERS) TESTED=tests/checkpoint \
	  WITH='transformers~=$(TRANSFORMERS).0 timm pydantic pyyaml tqdm'

# The report is tested in a real browser. Debian and its relatives have it as a package.
browser:
	@test "$$KDNATIVE_NO_BROWSER" = 1 || command -v chromium chromium-browser google-chrome >/dev/null || \
	  { echo "installing chromium for the report test"; apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  { echo "no chromium: install it, or set KDNATIVE_NO_BROWSER=1 to leave the report test out"; exit 1; }

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# The native sources are prerequisites, so a stale library is rebuilt.
SOURCES := pyproject.toml CMakeLists.txt $(wildcard cmake/* csrc/*.cpp csrc/*.txt csrc/*/*.cpp csrc/*/*.h csrc/*/*/*.cpp \
  csrc/*/*/*.h csrc/cuda/*.cu csrc/cuda/*.cuh)

$(DIST)/wheel.stamp: $(SOURCES) $(shell git ls-files kdnative) | $(BIN)/pip
	rm -f $(DIST)/*.whl
	$(if $(filter-out none,$(CUDA_ARCHS)),$(BIN)/pip install --quiet nvidia-cuda-nvrtc-cu12)
	KDNATIVE_NVRTC=$${KDNATIVE_NVRTC-$$($(BIN)/python kdnative/ops/nvrtc.py)} \
	  $(BIN)/pip wheel --quiet --no-deps --wheel-dir $(DIST) $(WHEEL_OPTIONS) \
	  $(if $(ISAS),--config-settings=cmake.define.KDNATIVE_ISAS=$(ISAS)) \
	  $(if $(CUDA_ARCHS),--config-settings=cmake.define.KDNATIVE_CUDA_ARCHS=$(CUDA_ARCHS)) .
	@touch $@

# What every recipe needs: the extra for pictures brings the pipeline.
$(VENV)/demo.stamp: $(SOURCES) $(CONSTRAINTS) | $(BIN)/pip
	$(BIN)/pip install --quiet $(PINS) --editable '.[vision]'
	@touch $@

$(VENV)/dev.stamp: $(SOURCES) $(CONSTRAINTS) | $(BIN)/pip
	$(BIN)/pip install --quiet $(PINS) --editable '.[dev]'
	@touch $@

$(VENV)/bench.stamp: $(SOURCES) $(CONSTRAINTS) | $(BIN)/pip
	$(BIN)/pip install --quiet $(PINS) --editable '.[bench]'
	@touch $@

$(VENV)/docs.stamp: pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	$(BIN)/pip install --quiet $(PINS) --editable '.[docs]'
	@touch $@

# Hostile checkpoints, operator calls, recipes and data files; then with sanitizers (docs/fuzzing.md). Half an hour.
# Another FUZZ_SEED makes other inputs.
FUZZ_INPUTS ?= 100000
FUZZ_FILES ?= 10000
FUZZ_SEED ?= 0
fuzz: $(VENV)/dev.stamp
	$(BIN)/python -m tests.fuzz.run regressions checkpoint=$(FUZZ_INPUTS) operators=$(FUZZ_INPUTS) \
	  recipes=$(FUZZ_FILES) data=$(FUZZ_FILES) --seed $(FUZZ_SEED); plain=$$?; \
	$(BIN)/python -m tests.fuzz.run regressions checkpoint=$(FUZZ_FILES) operators=$(FUZZ_INPUTS) \
	  --seed $(FUZZ_SEED) --sanitized && exit $$plain

# Processes that are killed while they save a checkpoint or run a recipe, and savers against loaders. About 10 minutes.
kills: $(VENV)/dev.stamp
	$(BIN)/python -m tests.checkpoint.kills 100
	$(BIN)/python -m tests.checkpoint.race 60
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pipeline.kills 60

clean:
	rm -rf $(VENV) build $(DIST)
