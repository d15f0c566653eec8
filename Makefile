# What to type. `make help` lists it.

# Go's own place, for machines where only a login shell has it in PATH.
export PATH := $(PATH):/usr/local/go/bin

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
DEMO     ?=
BENCH    ?=
FUZZTIME ?= 10s
SCENARIO ?=
GROUND   ?=
XEN      ?=
FRESH    ?= demo test
MUTATE   ?=
SEED     ?=
KEEP     ?=
SOAK     ?= -hostile.schedules=1000000 -hostile.slots=1000000000 -hostile.violations=10000

# The version is set below; asking git for it again fails in a clone of another user's.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.PHONY: demo
demo: build ## show it work: embedded Xen, two network namespaces, ping and 1 GiB each way (DEMO="--keep")
	bin/xnetfrontd demo $(DEMO)

# -count=1: what the tests build and run as processes, and the kernel, is not known to
# Go's cache of results.
.PHONY: test
test: check-root check-all ## go vet and every test, with the race detector; says what was left out
	go vet ./...
	@test/run.sh all

.PHONY: test-unit
test-unit: check-go ## the tests that need no root, no TAP and no C compiler, for everybody; says what was left out
	@test/run.sh unit

.PHONY: bench
bench: check-go check-root ## compare with veth and a plain forwarder on this machine (BENCH="-pairs 20")
	go run ./test/bench $(BENCH)

.PHONY: test-xen
test-xen: build bin/xenlab ## prove it on a real Xen under QEMU, no virtualization needed (SCENARIO=a,b  XEN="-v --keep")
	bin/xenlab test $(if $(SCENARIO),--scenario '$(SCENARIO)') $(XEN)

.PHONY: test-xen-matrix
test-xen-matrix: build bin/xenlab ## the same on other kernels, Xens and stores, and a grid of it (GROUND=a,b  SCENARIO=a,b  XEN="--page docs/grounds.md")
	bin/xenlab matrix $(if $(GROUND),--ground '$(GROUND)') $(if $(SCENARIO),--scenario '$(SCENARIO)') $(XEN)

.PHONY: walkthrough
walkthrough: build bin/xenlab ## make docs/walkthrough.md anew: what a new user types on that Xen, and what comes out
	@logs=$$(mktemp -d) && trap 'rm -rf "$$logs"' EXIT && \
	bin/xenlab test --scenario walkthrough --logs "$$logs" && \
	cp "$$(find "$$logs" -name walkthrough.md)" docs/walkthrough.md

.PHONY: bench-xen
bench-xen: build bin/xenlab ## compare with the kernel's xen-netfront on that Xen (BENCH="--pairs 5 --check")
	bin/xenlab bench $(BENCH)

.PHONY: xen-shell
xen-shell: build bin/xenlab ## give a prompt in dom0 and in a domU with the daemon
	bin/xenlab shell $(XEN)

.PHONY: bin/xenlab
bin/xenlab: check-go
	go build -o bin/xenlab ./test/xenlab

.PHONY: build
build: check-go ## build bin/xnetfrontd, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/xnetfrontd ./cmd/xnetfrontd

.PHONY: packages
packages: check-go ## build dist/*.deb and dist/*.rpm for amd64 and arm64
	deploy/packages/build.sh dist
	deploy/packages/contents.sh dist

.PHONY: release
release: check-go ## build what a release consists of into dist: packages, binaries, notes, checksums to be signed (VERSION=v1.2.3)
	tools/release.sh '$(VERSION)'

.PHONY: check-packages
check-packages: packages ## the same commit gives the same bytes; install, upgrade, remove in clean roots of Debian
	deploy/packages/reproducible.sh dist
	deploy/packages/check-install.sh dist

.PHONY: check-fresh
check-fresh: ## `make demo` and `make test` on a new Debian with make, git and certificates (FRESH="demo")
	test/fresh/run.sh $(FRESH)

.PHONY: lint
lint: check-go ## gofmt, go vet and staticcheck (pinned in tools/go.mod)
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$bad" ]; then printf 'not gofmt-ed:\n%s\n' "$$bad" >&2; exit 1; fi
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...
	go -C tools vet ./...

.PHONY: vulncheck
vulncheck: check-go ## look the dependencies up in Go's database of vulnerabilities (govulncheck, pinned in tools/go.mod)
	@tools/vulncheck.sh

.PHONY: fuzz
fuzz: check-go ## run every fuzz target for FUZZTIME (10s)
	@for p in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; \
	done

# Names of flags are in pkg/netfront/hostile_test.go.
.PHONY: hostile
hostile: check-go ## a hostile backend on 10,000 schedules, or on one again (SEED=n  KEEP=1,5,7); docs/hostile.md
	go test -count=1 -v -run '^TestHostile' ./pkg/netfront $(if $(SEED),-hostile.seed=$(SEED)) $(if $(KEEP),-hostile.keep=$(KEEP))

.PHONY: soak
soak: check-go ## the same for a million schedules and 10^9 slots, and 10,000 violations (SOAK="-hostile.schedules=1000 -hostile.time=5m")
	go test -count=1 -v -timeout 0 -run '^Test(HostileBackendBreaks|MemoryAndGrants)' ./pkg/netfront $(SOAK)

.PHONY: mutate
mutate: check-go check-root ## take the checks out one at a time, and see their tests fail (MUTATE="-only XSA"); docs/hostile.md
	go run ./test/mutate $(MUTATE)

.PHONY: findings
findings: ## try on pinned versions what surprised us in libraries and tools (findings/README.md)
	@findings/run.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist

# What the targets stand on: it is installed where that is possible, or one line says what
# is missing.

.PHONY: check-go
check-go:
	@tools/setup.sh go

# The race detector is linked by a C compiler.
.PHONY: check-all
check-all:
	@tools/setup.sh go cc ip mount

# Tests and the benchmark make network namespaces and TAPs. The demo checks for itself,
# since a plain user can have it too.
.PHONY: check-root
check-root:
	@[ "$$(id -u)" = 0 ] || { echo "make: this needs root for network namespaces and TAPs: run it with sudo" >&2; exit 1; }
	@[ -e /dev/net/tun ] || { echo "make: /dev/net/tun is not there: load the driver (modprobe tun), or in a container pass it in (--device /dev/net/tun)" >&2; exit 1; }
