# Two commands do all: `make demo` shows the main job, `make test` passes the tests. Both set up what they need.
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
TESTS ?= tests

.PHONY: help demo test test-meton bench-data bench-merge bench-train faults-data faults-train faults-serve check lint \
	ollama lock manifest clean prove-real

help:
	@echo "make demo      the main job, from rated answers to a swapped model, on a tiny base"
	@echo "make test      lint, types and tests"
	@echo "make test-meton  tests inside a real Meton checkout, METON_HOME=PATH, in three environments of their own"
	@echo "make bench-data  near-duplicates, harvest, build, ratings and secrets, measured (bench/data.md)"
	@echo "make bench-merge  memory and time of merge and quantize on bases of up to 1.2 billion weights (bench/merge.md)"
	@echo "make bench-train  training against PyTorch + PEFT, measured (bench/train.md; fetches PyTorch, some 3 GB, once)"
	@echo "make prove-real  three real models against PyTorch + PEFT, resumed, exported (bench/results/real.json)"
	@echo "make faults-data  kill -9 at 200 moments of work on the library"
	@echo "make faults-train  kill -9 at 200 moments of a training, 20 of SmolLM2; each run ends with the same adapter"
	@echo "make faults-serve  break register, create, alias and swap at 60 points against a real Ollama"
	@echo "make ollama    install a real Ollama into .cache/ (needs Go 1.26 or newer), for demo and tests"
	@echo "make manifest  write plugin.toml's lists and docs/options.md anew after a change of commands, tools or settings"
	@echo "make lock      resolve requirements/dev.in anew into requirements/dev.lock (needs uv)"
	@echo "make clean     remove what make made, but for downloads"

$(READY): requirements/dev.lock pyproject.toml tools/make_venv.sh
	@sh tools/make_venv.sh $(VENV)
	@touch $@

demo: $(READY)
	@$(PY) tools/demo.py

test: $(READY) lint ollama
	@$(PY) -m meton_plugins.finetune finetune setup
	@REQUIRE_ENGINE=1 $(PY) -m pytest $(TESTS)

test-meton: $(READY) ollama
	@$(PY) -m meton_plugins.finetune finetune setup
	@REQUIRE_ENGINE=1 $(PY) tools/test_meton.py

# Some twenty minutes: brute force and 100,000 texts.
bench-data: $(READY)
	@$(PY) bench/near_duplicates.py
	@$(PY) bench/harvest_build.py
	@$(PY) bench/rating.py
	@$(PY) bench/find_secrets.py --write
	@$(PY) bench/table.py

# Some forty minutes and 10 GB of disk.
bench-merge: $(READY)
	@$(PY) -m meton_plugins.finetune finetune setup
	@$(PY) bench/merge.py

# Some thirty minutes. What was measured with the same code is kept; BENCH=... takes words for bench/train.py.
bench-train: $(READY)
	@$(PY) -m meton_plugins.finetune finetune setup
	@$(PY) bench/train_venv.py
	@$(PY) bench/train.py $(BENCH)

# Within 100 minutes; some 6 GB are fetched once. Parts that were measured with the same code are kept; BENCH="smollm2"
# takes one model alone, see bench/prove_real.py.
prove-real: $(READY)
	@$(PY) -m meton_plugins.finetune finetune setup
	@$(PY) bench/train_venv.py
	@$(PY) bench/prove_real.py $(BENCH)

faults-data: $(READY)
	@$(PY) tools/faults_data.py --kills 200

# Some thirty minutes.
faults-train: $(READY)
	@$(PY) -m meton_plugins.finetune finetune setup
	@$(PY) tools/faults_train.py --kills 200

# Some minutes.
faults-serve: $(READY) ollama
	@$(PY) tools/faults_serve.py --points 60

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

ollama: $(READY)
	@$(PY) tools/install_ollama.py

manifest: $(READY)
	@$(PY) tools/write_manifest.py
	@$(PY) tools/write_options.py

lock: $(READY)
	@uv pip compile --universal --python-version 3.10 --upgrade --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links requirements/dev.in pyproject.toml -o requirements/dev.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
