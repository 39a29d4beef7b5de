# handoff64. `make help` lists the targets.

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
UNITDIR  ?= $(PREFIX)/lib/systemd/system
FUZZTIME ?= 10s
BENCH    ?=

# Everything is built without cgo; only the race detector needs it.
export CGO_ENABLED := 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -X main.version=$(VERSION)

# The end-to-end tests drive programs that are built without the race detector.
RACE = $(shell $(GO) list ./... | grep -v /tools/lab)

.PHONY: build test race soak fuzz bench lint demo generate profile install clean help

build: ## build every program into bin/ (the default)
	$(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

test: ## run every test; without root, those that can run without it
	@mkdir -p bin
	@$(GO) build -buildvcs=false -o bin/testreport ./tools/testreport
	@bin/testreport -timeout 20m ./...

race: ## run the tests under the race detector (needs a C compiler), end to end ones aside
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $(RACE)

soak: ## run the long forms of tests (needs root, and about three quarters of an hour)
	$(GO) test -count=1 -v -timeout 1h -run TestWorkerAgainstModel ./dataplane -model.packets=2000000
	$(GO) test -count=1 -v -run TestResidentMemory ./conntrack -rss.sessions=4194304
	$(GO) test -count=1 -v -timeout 4h -run 'TestHandoff(NoEntryIsEverLost|MoreConnectionsThanPorts|GarbageToNat64d)' ./tools/lab/e2e \
		-e2e.timeout=2h -handoff.crashes=200 -handoff.connections=60000 -handoff.garbage=10000000
	$(GO) test -count=1 -v -timeout 1h -parallel 1 -run TestEveryModeTransfers ./tools/lab/e2e -e2e.timeout=20m -handoff.octets=1073741824

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | \
	while IFS=: read -r file func; do \
		echo "$$(dirname $$file) $${func#func }"; \
		$(GO) test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) "$$(dirname $$file)" || exit 1; \
	done

bench: build ## measure what fits this machine in ten minutes: tables, JSON and plots in bench/results (root for all of it); BENCH=x: the Go benchmarks that match it
ifeq ($(BENCH),)
	@bin/nat64lab bench --out bench/results --document docs/benchmarks.md
else
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $(RACE)
endif

lint: ## gofmt, go vet (amd64 and arm64) and staticcheck, all of which must be silent
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not gofmt-clean:"; echo "$$out"; exit 1; fi
	GOARCH=amd64 $(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) tool staticcheck ./...

demo: ## carry real traffic through nat64d in a network of namespaces (needs root)
	@if [ "$$(id -u)" != 0 ]; then \
		echo "make demo needs root, for network namespaces and AF_XDP: sudo make demo. Only building."; \
		$(MAKE) --no-print-directory build; exit 1; fi
	@echo "Building; the first time Go fetches and compiles the modules, which takes a minute or more."
	@$(MAKE) --no-print-directory build
	@bin/nat64lab demo

generate: ## compile the XDP filter anew (needs clang)
	@command -v clang >/dev/null || { echo "make generate needs clang: apt-get install clang llvm libbpf-dev"; exit 1; }
	$(GO) generate ./...

# Built with -trimpath and outside the source tree, so that the profile names no folders of this machine.
profile: ## measure anew where the packet path spends its time, for the compiler (cmd/nat64d/default.pgo)
	@d=$$(mktemp -d) && trap "rm -r $$d" EXIT && $(GO) test -trimpath -c -o $$d/bench ./bench && cd bench && \
	$$d/bench -test.run '^$$' -test.bench 'Dataplane$$/./../flows=(1000|65536)$$' -test.benchtime 12000000x -test.cpuprofile $$d/established && \
	$$d/bench -test.run '^$$' -test.bench 'Establish/(udp|tcp)$$|Teardown/fin' -test.benchtime 2000000x -test.cpuprofile $$d/sessions && \
	$(GO) tool pprof -proto $$d/established $$d/sessions > ../cmd/nat64d/default.pgo

install: ## copy programs and systemd units below DESTDIR and PREFIX (/usr/local)
	@test -x bin/nat64d || { echo "nothing to install yet: run make first"; exit 1; }
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(UNITDIR)'
	for p in cmd/*/main.go; do install -m 755 "bin/$$(basename $$(dirname $$p))" '$(DESTDIR)$(PREFIX)/bin/' || exit 1; done
	for u in nat64d handoffd; do \
		sed 's|/usr/local/bin/|$(PREFIX)/bin/|' "tools/systemd/$$u.service" > "$(DESTDIR)$(UNITDIR)/$$u.service" && \
		chmod 644 "$(DESTDIR)$(UNITDIR)/$$u.service" || exit 1; done

clean: ## remove what was built
	rm -rf bin

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
