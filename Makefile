# Everything is installed into this folder: uv into .uv (where the machine has none), the packages into .venv.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin
SOURCES := gapgate components pipelines serving cli infra tests bench
SCRIPTS := infra/up infra/restore infra/kubernetes-api infra/docker/base infra/docker/engine infra/docker/install \
	components/platform/git_askpass serving/bento_entrypoint.sh $(wildcard infra/kubernetes/base/*.sh tests/serving/foreign/*.sh)

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD)$(shell git diff --quiet HEAD -- || echo +dirty)
# As in infra/up and pipelines/container_images.py; it ends with -dirty where tracked files differ from the commit.
TAG = $(VERSION)-$(shell git describe --always --exclude '*' --abbrev=12 --dirty)
# Docker from version 23 on cannot build without its plugin buildx; Debian's older one can.
DOCKER ?= $(shell docker buildx version >/dev/null 2>&1 && echo docker || ls /usr/bin/docker 2>/dev/null || echo docker)
BASE_IMAGE ?= python:3.11-slim
define WITHOUT_BASE
$(DOCKER) image inspect $(BASE_IMAGE) >/dev/null 2>&1 || $(DOCKER) pull --quiet $(BASE_IMAGE) >/dev/null || \
	echo "error: the base image $(BASE_IMAGE) cannot be pulled; name one that can with BASE_IMAGE, or make one from" \
	"Debian's packages: make images BASE_IMAGE=\$$(infra/docker/base)" >&2;
endef
# Where packages come through a proxy or from an index of one's own: a CA bundle, and the settings of uv and pip.
BUILD_SECRETS = $(if $(SSL_CERT_FILE),--secret id=ca$(comma)src=$(SSL_CERT_FILE)) \
	$(if $(UV_CONFIG_FILE),--secret id=uv.toml$(comma)src=$(UV_CONFIG_FILE)) \
	$(if $(PIP_CONFIG_FILE),--secret id=pip.conf$(comma)src=$(PIP_CONFIG_FILE))
comma := ,

DATA ?= .
SEED ?= $(shell date +%s)
NEEDS_PYTHON = 'import sys; sys.exit(sys.version_info < (3, 11) and "Gapgate needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11")'

.PHONY: demo test test-cluster check faults mutants install bench recipes ablation docs screenshots plots images tag lock clean

# Without what only tests need, unless that is there already.
demo: $(if $(wildcard .venv/.installed),install,.venv/.demo)  ## install, run the pipeline on the embedded digits, and ask the packaged model about one image; TORCH=cpu for torch without CUDA
	$(BIN)/gapgate run
	$(BIN)/python -m cli.demo

# Four processes for two cores: half of the time tests wait, for a server, a browser, a container or a core.
test: check  ## install and pass all tests
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

test-cluster: install  ## the tests on the cluster of kubectl's context, with KF_PIPELINES_ENDPOINT=URL of its Kubeflow Pipelines
	$(BIN)/python -m pytest tests/cluster -rA --capture=fd

check: install  ## lint, types, import contracts
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: install  ## every crash test of tests/faults, of which `make test` runs a sample, and their tally; SEED=N repeats one
	GAPGATE_FAULTS=all GAPGATE_FAULTS_SEED=$(SEED) $(BIN)/python -m pytest tests/faults -n 2 --dist loadgroup

mutants: install  ## put small faults into the core modules and print the share that their tests miss; MODULES=files
	$(BIN)/python -m tests.mutants $(MODULES)

install: .venv/.installed

bench: install  ## measure against peers, side by side
	$(BIN)/python -m bench.overhead
	$(BIN)/python -m bench.preprocess
	$(BIN)/python -m bench.train
	$(BIN)/python -m bench.recipes
	$(BIN)/python -m bench.serve
	$(BIN)/python -m bench.abuse
	$(BIN)/python -m bench.evidence
	$(BIN)/python -m bench.leaks near
	$(BIN)/python -m bench.photos

recipes: install  ## measure the recipes that have changed, and write the table of docs/recipes.md; DATA=folder of the data sets
	$(BIN)/python -m cli.recipes --data $(DATA)

ablation: install  ## the same for what each remedy buys
	$(BIN)/python -m cli.recipes --data $(DATA) --ablation

docs: install  ## build the documentation as a site into site/, which loads nothing from elsewhere; a dead link or heading is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: install  ## make the pictures of docs/images anew, from a real run; needs Chromium and tmux; KF_PIPELINES_ENDPOINT=URL for those of a cluster too
	$(BIN)/python -m tests.screenshots

plots: .dvc/tmp/plots.html  ## make `dvc plots show` write a page that loads nothing: its drawing program comes once, by npm
	$(BIN)/dvc config --local plots.html_template tmp/plots.html

# Of the versions that DVC's page names, which npm finds to be of different ages.
VEGA = vega@5.20.2 vega-lite@5.2.0 vega-embed@6.18.2
.dvc/tmp/plots.html: $(firstword $(MAKEFILE_LIST))
	mkdir -p .dvc/tmp/vega && echo '{}' > .dvc/tmp/vega/package.json
	npm install --prefix .dvc/tmp/vega --no-save --no-audit --no-fund --ignore-scripts --legacy-peer-deps --loglevel error $(VEGA)
	{ echo '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>DVC plots</title>{refresh_tag}'; \
		for name in vega vega-lite vega-embed; do \
			echo '<script>'; cat ".dvc/tmp/vega/node_modules/$$name/build/$$name.min.js"; echo '</script>'; \
		done; \
		echo '<body>{plot_divs}</body></html>'; } > $@.new && mv $@.new $@

images: image-step image-train image-serve  ## build the images gapgate/{step,train,serve}; BUILD_OPTIONS="--network host"

# By the version alone too, as the manifests of infra/kubernetes name them.
image-%:
	DOCKER_BUILDKIT=1 $(DOCKER) build --target $* --tag gapgate/$*:$(TAG) --tag gapgate/$*:$(VERSION) \
		--build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		$(BUILD_SECRETS) $(BUILD_OPTIONS) --file infra/docker/Dockerfile . || { $(WITHOUT_BASE) exit 1; }

tag:  ## the tag of the images of this revision
	@echo $(TAG)

lock: $(UV)  ## resolve requirements.lock anew from pyproject.toml, and from it those of the Bento and the images
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		--group dev -o requirements.lock pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		-c requirements.lock -o runtime.lock pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		-c requirements.lock -o serving/requirements.lock serving/requirements.in
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		-c requirements.lock --excludes infra/docker/not-in-images.txt -o infra/docker/train.lock pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		-c requirements.lock --excludes infra/docker/not-in-images.txt --excludes infra/docker/not-in-step.txt \
		-o infra/docker/step.lock pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
		-o infra/docker/uv.lock infra/docker/uv.in

clean:  ## remove what was installed; runs and data stay
	rm -rf .venv .uv .mutants .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# The build of torch for processors alone comes from PyTorch's own index, where its hash is another. Asked first: what
# follows takes minutes.
TORCH_INDEX = https://download.pytorch.org/whl/cpu
TORCH_FOR_CPU = $(UV) pip install --quiet --torch-backend cpu --python $(BIN)/python \
	$$(grep -oE '^torch(vision)?==[0-9.]+' runtime.lock)
.venv/.demo: runtime.lock pyproject.toml | $(UV)
	@$(PYTHON) -c $(NEEDS_PYTHON)
	@echo "installing Gapgate's packages into .venv: $(if $(filter cpu,$(TORCH)),0.5 GB to download$(comma) 2 GB on disk,3.3 GB to download$(comma) 6.6 GB on disk)"
	@$(if $(filter cpu,$(TORCH)),,echo "most of it is CUDA; make demo TORCH=cpu leaves that out")
	@echo "this takes some minutes, in which nothing more is said"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
ifeq ($(TORCH),cpu)
	@$(TORCH_FOR_CPU) --dry-run 2> .venv/torch.log || { echo "error: $(TORCH_INDEX) does not give torch without CUDA:" \
		"$$(tail -n 1 .venv/torch.log | sed 's/^[ ╰─▶]*\(cause: \)\?//'); make demo takes torch with CUDA from your package index" >&2; exit 1; }
	@awk '/^[a-z]/ {skip = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==/} !skip' runtime.lock > .venv/without-cuda.lock
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python .venv/without-cuda.lock
	@$(TORCH_FOR_CPU)
else
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python runtime.lock
endif
	@$(UV) pip install --quiet --no-deps --python $(BIN)/python -e .
	@touch $@

.venv/.installed: requirements.lock pyproject.toml | $(UV)
	@$(PYTHON) -c $(NEEDS_PYTHON)
	@echo "installing Gapgate's packages and those of its tests into .venv: some minutes, in which nothing more is said"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	@touch $@

.uv/bin/uv:
	@echo "installing uv, which installs the packages, into .uv"
	@$(PYTHON) -m venv .uv 2>/dev/null && .uv/bin/python -m pip install --quiet uv \
		|| { rm -rf .uv; echo "uv is missing and cannot be installed: give python3 its venv module (Debian: python3-venv)"; exit 1; }
