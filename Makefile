# The habits of this project. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: help setup demo test lint types format schemas fuzz clean bench-encode bench-pipeline bench-generate bench-perplexity \
        accept bench-real bench-calibrate bench-layers bench-fidelity bench-fitted bench-mixtral bench-cluster bench-memory bench-levers bench-limits bench-swaps bench-rare bench-compare bench-gate bench-inspect
help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: $(READY)  ## make .venv with everything in it (about 5 minutes the first time, seconds later)

$(READY): pyproject.toml scripts/setup.py
	@$(PYTHON) scripts/setup.py
	@touch $(READY)

demo: $(READY)   ## plan, quantize, measure and run the shipped model
	@$(BIN)/python scripts/demo.py

test: $(READY)   ## pass the tests
	@$(BIN)/python -m pytest

lint: $(READY)   ## ruff, check only
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	@$(BIN)/mypy

format: $(READY) ## ruff, in place
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

schemas: $(READY) ## write docs/schemas anew: the JSON that commands print
	@$(BIN)/python scripts/schemas.py

fuzz: $(READY)   ## mutate files at the parsers; N=100000 for longer
	@$(BIN)/python tests/formats/fuzz.py $(or $(N),20000)

accept: $(READY)           ## the whole way on real models, every command, kills and resumes (long; fetches 4 GB)
	@$(BIN)/python benchmarks/accept.py $(MODELS)

bench-real: $(READY)       ## real models beside llama.cpp's own tools: time, memory, disk, tokens a second
	@$(BIN)/python benchmarks/real.py $(MODELS)

bench-encode: $(READY)     ## our encoders against ggml_quantize_chunk
	@$(BIN)/python benchmarks/encode.py

bench-pipeline: $(READY)   ## one pass against convert + llama-quantize: time, memory, disk
	@$(BIN)/python benchmarks/pipeline.py

bench-generate: $(READY)   ## Python time a token beside llama-cpp-python; speed beside a busy process (MODEL=smollm2 keeps it)
	@$(BIN)/python benchmarks/generate.py $(if $(MODEL),--model $(MODEL))

bench-perplexity: $(READY) ## perplexity against llama-perplexity
	@$(BIN)/python benchmarks/perplexity.py

bench-calibrate: $(READY)  ## importance against llama-imatrix
	@$(BIN)/python benchmarks/calibrate.py

bench-layers: $(READY)     ## a checkpoint calibrated layer by layer against llama-imatrix on the whole model
	@$(BIN)/python benchmarks/layers.py

bench-fidelity: $(READY)   ## KL divergence at equal bytes against llama.cpp with importance
	@$(BIN)/python benchmarks/fidelity.py

bench-fitted: $(READY)     ## memory and time of fitting experts of Mixtral's shapes, planned and measured
	@$(BIN)/python benchmarks/fitted.py

bench-mixtral: $(READY)    ## a layer of Mixtral's shapes, 8 experts, types chosen, under a cap of 6 GiB: memory and time, planned and taken
	@$(BIN)/python benchmarks/fitted.py --n-expert 8 --tokens 25000 --target-bpw 4.5

bench-cluster: $(READY)    ## encode and fit with threads and with 1, 2 and 3 workers, one killed; what 64 machines would take, on paper
	@$(BIN)/python benchmarks/cluster.py && $(BIN)/python benchmarks/scale.py

bench-memory: $(READY)     ## memory of the commands that run models, planned and measured
	@$(BIN)/python benchmarks/memory.py

bench-levers: $(READY)     ## what each lever of fitting buys
	@$(BIN)/python benchmarks/levers.py

bench-limits: $(READY)     ## how much error feedback can give on a model, and how much of it we get (MODEL=smollm2)
	@$(BIN)/python benchmarks/limits.py $(MODEL)

bench-swaps: $(READY)      ## how far predicted costs of types can be trusted, and what swaps could gain at most (MODEL=smollm2)
	@$(BIN)/python benchmarks/swaps.py $(MODEL)

bench-rare: $(READY)       ## what leaning on the layer does for experts that were hardly seen
	@$(BIN)/python benchmarks/rare_experts.py

bench-compare: $(READY)    ## compare against llama-perplexity's two steps
	@$(BIN)/python benchmarks/compare.py

bench-gate: $(READY)       ## error rates and savings of the gate, by simulation
	@$(BIN)/python benchmarks/gate_simulation.py

bench-inspect: $(READY)    ## opening a 32k-vocabulary file against gguf.GGUFReader
	@$(BIN)/python benchmarks/inspect_open.py

clean:           ## remove what was made here, .venv included
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info out
