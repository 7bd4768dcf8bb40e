# One line per target; what is longer lives in a script of the folder it belongs to.
.DEFAULT_GOAL := help
.PHONY: help demo test verify fix bench sim fuzz images crds protos e2e

help: ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10

demo: ## build, start a secured application end to end, tell its story; KEEP=1 leaves it up
	@cargo build --quiet --workspace --bins --locked && target/debug/demo $(if $(KEEP),--keep)

test: ## every test of the workspace, real processes and official SDKs included
	cargo test --workspace --locked --no-fail-fast

verify: ## what has to hold before a commit; never writes
	.ci/verify

fix: ## formats and applies lint suggestions
	cargo fmt --all && cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: ## measures what images ship; BENCH_BASELINE_DIR=folder compares with other executables
	@bench/run

sim: ## placement's replicas, sidecars and faults from SEEDS=1000 seeds; SEED=n replays one
	PLACEMENT_SIM_SEEDS=$(or $(SEEDS),1000) $(if $(SEED),PLACEMENT_SIM_SEED=$(SEED)) cargo test --locked -p dapr-placement --lib simulation

fuzz: ## attacks with what strangers can send, a minute per target; says so where cargo-fuzz cannot be installed
	@fuzz/run

images: ## one image per program and the combined one, as archives and into docker, podman or buildah
	@images/build

crds: ## rewrites crds/yaml, and the chart's copy, from the types
	cargo run --quiet -p dapr-crds --bin crds && cp crds/yaml/*.yaml charts/dapr/crds/

protos: ## rewrites proto/src/generated and target/dapr.binpb from the .proto files
	cargo run --quiet -p dapr-proto-generator

e2e: ## end-to-end tests alone, then those of a cluster; E2E_CLUSTER=kind, local or existing chooses it
	cargo test -p dapr-e2e --locked && e2e/cluster/run
