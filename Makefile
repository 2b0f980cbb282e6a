# minid: `make help` lists what there is.

SHELL       := /bin/bash
.DEFAULT_GOAL := help
GO          := CGO_ENABLED=0 go
VERSION     ?= 0.1.0
LDFLAGS     := -s -w -X main.version=$(VERSION)
# containerd without the plugins that minid never uses.
CONTAINERD_TAGS := no_btrfs no_devmapper no_zfs no_cri no_aufs
# What needs no root and takes seconds; the rest is real runtime, kernel and clusters.
REAL        := ./agent/containerd/... ./network/... ./integration/...
UNIT         = $(filter-out $(shell go list $(REAL)),$(shell go list ./...))
N           ?= 200
T           ?= 30s
PROTOC      := PATH=$(CURDIR)/.cache/bin:$$PATH protoc -I proto --go_out=. --go_opt=module=github.com/minid/minid \
               --go-grpc_out=. --go-grpc_opt=module=github.com/minid/minid

.PHONY: help setup build check test race sim real integration vm bench versus fuzz proto drift demo clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install what is missing on a Debian machine (runc, protoc, gcc, nft, wrk, redis-benchmark)
	@scripts/setup

build: bin/containerd ## bin/minid, bin/minictl, bin/minid-init, bin/containerd, bin/containerd-shim-runc-v2
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/minid ./cmd/minictl ./cmd/minid-init

bin/containerd: tools/go.mod
	@mkdir -p bin
	cd tools && $(GO) build -trimpath -tags "$(CONTAINERD_TAGS)" -ldflags '-s -w' -o ../bin/ \
	  github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	@touch bin/containerd

check: drift ## format, vet, static analysis, unit tests, generated-code drift
	@bad=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); [ -z "$$bad" ] || { echo "not gofmt'ed: $$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -short $(UNIT)

test: setup build check ## every test: unit, race, simulated clusters, real containers
	@scripts/test

race: ## unit tests under the race detector
	CGO_ENABLED=1 go test -race -short $(UNIT)

sim: ## N seeded runs of the simulated cluster in virtual time
	SIM_RUNS=$(N) $(GO) test -count=1 -timeout 30m -run '^TestSimulated' ./internal/testcluster

real: ## the runtime and the network on real containerd, runc and kernel (root)
	$(GO) test -count=1 -timeout 10m ./agent/containerd/... ./network/...

integration: build ## clusters of real nodes in network namespaces (root)
	$(GO) test -count=1 -timeout 40m ./integration/...

vm: setup build ## the tests of make real on Debian's own kernel with cgroup v2, under QEMU (root)
	@scripts/vm

bench: ## all benchmarks, compared with the committed baseline
	@scripts/bench

versus: setup build ## the same stories on Docker Swarm and on minid, with ratios
	$(GO) run ./integration/versus

fuzz: ## each fuzz target in turn for T
	@scripts/fuzz $(T)

proto: .cache/bin/protoc-gen-go ## regenerate the protobuf code
	$(PROTOC) proto/minid/v1/*.proto

drift: proto
	@git diff --exit-code --stat -- proto || { echo "generated code differs from the .proto files: run make proto and commit"; exit 1; }

.cache/bin/protoc-gen-go: go.mod
	@mkdir -p .cache/bin
	@command -v protoc >/dev/null || scripts/setup
	$(GO) build -o .cache/bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@touch .cache/bin/protoc-gen-go

demo: setup build ## three managers and two workers on this host run real containers (KEEP=1 leaves them up)
	@$(GO) run ./integration/demo

clean: ## remove what was built
	rm -rf bin .cache bench/new.txt
