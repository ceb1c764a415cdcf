# Everything needed to build, run and test Triward. `make help` lists the targets.
# Needs Go, node with npm, a C compiler and make; `make tools` gets what else the tests want.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

BIN   := $(CURDIR)/bin
CACHE := $(CURDIR)/.cache
WEB   := ui/web
VERSION ?= 0.1.0-dev
GOFLAGS_BUILD := -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X github.com/triward/triward/appliance/cli.release=$(VERSION)'

web_sources := $(shell find $(WEB) -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -not -path '*/.svelte-kit/*' -not -path '*/e2e/*' 2>/dev/null)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: web go-build ## make bin/triward and bin/triward-agent with the page in it

.PHONY: go-build
go-build: ## make the binaries with the page as it was last built, without C as in packages
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build $(GOFLAGS_BUILD) -o $(BIN)/ ./appliance/cmd/triward ./agent/cmd/triward-agent

.PHONY: web
web: $(WEB)/dist/index.html ## build the page

$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(web_sources)
	cd $(WEB) && npm run --silent build
	@touch $(WEB)/dist/.gitkeep $@

.PHONY: run
run: build ## a throw-away cluster of three nodes and an agent of this machine
	@$(BIN)/triward dev $(ARGS)

.PHONY: test
test: build test-go test-web test-e2e ## every test but long faults
	@echo 'make test: passed'

# An S3 service for the tests of backups; its module has nothing to do with ours.
$(CACHE)/versitygw: packaging/s3.mod
	@mkdir -p $(CACHE)
	go build -modfile=packaging/s3.mod -o $@ github.com/versity/versitygw/cmd/versitygw

# Senders for the test of real ones. Prometheus goes without the discoveries of clouds, which are most of its modules.
$(CACHE)/prometheus: packaging/peers.mod
	@mkdir -p $(CACHE)
	go build -modfile=packaging/peers.mod -tags remove_all_sd,enable_file_sd -o $@ github.com/prometheus/prometheus/cmd/prometheus

$(CACHE)/lokiclient: packaging/loki.mod packaging/lokiclient/main.go
	@mkdir -p $(CACHE)
	go build -modfile=packaging/loki.mod -o $@ packaging/lokiclient/main.go

# The other log store of the bench of logs: a program of its own, whose module is not in the graph of ours.
$(CACHE)/victoria-logs: packaging/logpeers.mod
	@mkdir -p $(CACHE)
	go build -modfile=packaging/logpeers.mod -o $@ github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs

# Loki and its command line, of a module of their own: 1.6.1 is the last release under the Apache license that is a version of
# Loki's module. A first build takes minutes, so nothing that `make test` runs needs them.
$(CACHE)/loki $(CACHE)/logcli: $(CACHE)/%: packaging/loki161.mod
	@mkdir -p $(CACHE)
	CGO_ENABLED=0 go build -modfile=packaging/loki161.mod -o $@ github.com/grafana/loki/cmd/$*

# Grafana's grammar of LogQL, which our parser is compared with.
GRAMMAR := packaging/logqlgrammar
$(GRAMMAR)/node_modules/.package-lock.json: $(GRAMMAR)/package-lock.json
	cd $(GRAMMAR) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: senders
senders: $(CACHE)/prometheus $(CACHE)/lokiclient ## build and install the senders that tests deliver with
	@packaging/syslog.sh install

# These take minutes, most of which they wait for whole clusters: they begin first, and one package more than there are cores runs
# at once.
LONGEST := ./appliance/systemtest ./appliance/internal/testcluster ./logstore ./appliance/alerting
.PHONY: test-go
test-go: $(CACHE)/versitygw $(GRAMMAR)/node_modules/.package-lock.json senders fault-tools ## tests of the Go packages
	TRIWARD_BIN=$(BIN) TRIWARD_VERSITYGW=$(CACHE)/versitygw TRIWARD_SENDERS=$(CACHE) go test -timeout 20m -p $$(( $$(nproc) + 1 )) -parallel 4 $(LONGEST) ./...
	@echo 'test-go: passed'

.PHONY: test-web
test-web: $(WEB)/node_modules/.package-lock.json ## tests of the page's code
	cd $(WEB) && npm test --silent
	@echo 'test-web: passed'

.PHONY: test-e2e
test-e2e: build browser ## drive the page in Chromium against a running cluster
	@if packaging/browser.sh find >/dev/null; then \
	  TRIWARD_CHROMIUM=$$(packaging/browser.sh find) packaging/e2e.sh $(BIN) && echo 'test-e2e: passed'; \
	else \
	  echo 'test-e2e: NOT RUN, there is no Chromium on this machine'; test -z "$${CI_STRICT:-}"; \
	fi

.PHONY: browser
browser: ## install Chromium and fonts when they are missing and we may
	@packaging/browser.sh install

.PHONY: check
check: check-format check-vet check-lint check-architecture check-web check-units check-guide ## format, lint, import rules, architecture, units
	@echo 'make check: passed'

$(CACHE)/gofumpt: packaging/tools.mod
	@mkdir -p $(CACHE)
	go build -modfile=packaging/tools.mod -o $@ mvdan.cc/gofumpt

$(CACHE)/lint: packaging/tools.mod packaging/lint/main.go
	@mkdir -p $(CACHE)
	go build -modfile=packaging/tools.mod -o $@ packaging/lint/main.go

$(CACHE)/nfpm: packaging/tools.mod
	@mkdir -p $(CACHE)
	go build -modfile=packaging/tools.mod -o $@ github.com/goreleaser/nfpm/v2/cmd/nfpm

.PHONY: tools
tools: $(CACHE)/gofumpt $(CACHE)/lint browser fault-tools ## build the linters, install what the tests want

.PHONY: fmt
fmt: $(CACHE)/gofumpt ## format the tree
	$(CACHE)/gofumpt -l -w agent appliance logstore packaging raftstate tsdb ui/*.go
	cd $(WEB) && npm run --silent format

.PHONY: check-format
check-format: $(CACHE)/gofumpt
	@bad=$$($(CACHE)/gofumpt -l agent appliance logstore packaging raftstate tsdb ui/*.go); \
	  if [ -n "$$bad" ]; then echo "not formatted (make fmt):"; echo "$$bad"; exit 1; fi
	@echo 'check-format: passed'

.PHONY: check-vet
check-vet:
	go vet ./...
	@echo 'check-vet: passed'

.PHONY: check-lint
check-lint: $(CACHE)/lint
	go vet -vettool=$(CACHE)/lint ./...
	@echo 'check-lint: passed'

.PHONY: check-architecture
check-architecture:
	go test -count=1 ./appliance/internal/architecture
	@echo 'check-architecture: passed'

.PHONY: check-web
check-web: $(WEB)/node_modules/.package-lock.json
	cd $(WEB) && npm run --silent check
	@echo 'check-web: passed'

.PHONY: check-units
check-units: ## how confined the systemd units are
	@packaging/check-units.sh
	@echo 'check-units: passed'

.PHONY: check-guide
check-guide: ## the installation guides have the same commands in both languages
	@packaging/guide.sh check
	@echo 'check-guide: passed'

.PHONY: packages
packages: web $(CACHE)/nfpm ## .deb and .rpm of both programs for amd64 and arm64, in bin/packages
	@rm -rf $(BIN)/packages
	@NFPM=$(CACHE)/nfpm packaging/packages.sh $(VERSION) $(BIN)/packages amd64 arm64

.PHONY: test-packages
test-packages: web $(CACHE)/nfpm ## install, upgrade under load and remove the packages on machines of systemd-nspawn; needs root on Debian
	@NFPM=$(CACHE)/nfpm packaging/test-packages.sh $(VERSION)

.PHONY: test-reproducible
test-reproducible: web $(CACHE)/nfpm ## build the packages twice, in two folders, and compare the bytes
	@NFPM=$(CACHE)/nfpm packaging/test-reproducible.sh $(VERSION) amd64 arm64

# As LONGEST: the last to begin would run by itself for minutes.
LONGEST_RACED := ./logstore ./appliance/alerting ./appliance/archive ./raftstate/meta
.PHONY: race
race: ## tests of the packages that start goroutines, under the race detector
	go test -race -short -timeout 30m $(LONGEST_RACED) $$(packaging/raced.sh)
	@echo 'make race: passed'

.PHONY: test-logcli
test-logcli: go-build $(CACHE)/logcli ## Loki's own logcli asks a real cluster; the first time its build takes minutes
	TRIWARD_BIN=$(BIN) TRIWARD_LOGCLI=$(CACHE)/logcli go test -count=1 -v -run '^TestRealLogcli$$' -timeout 15m ./appliance/systemtest
	@echo 'make test-logcli: passed'

# Both run as root, or as a user who gets namespaces; what cannot be run is said, and fails where CI_STRICT is set.
.PHONY: faults
faults: go-build fault-tools ## ten minutes of faults on a real cluster; ROWS and SEED choose, as for torture
	TRIWARD_BIN=$(BIN) TRIWARD_FAULTS=1 TRIWARD_TORTURE_ROWS='$(ROWS)' TRIWARD_TORTURE_SEED='$(SEED)' \
	  go test -count=1 -v -run '^(TestFaults|TestFaultTable)$$' -timeout 30m ./appliance/systemtest

MINUTES ?= 60
.PHONY: torture
torture: go-build fault-tools ## every fault over and over: MINUTES=60 SEED='1 2' ROWS='kill-* part-leader'; MINUTES=0: each row once with each seed
	TRIWARD_BIN=$(BIN) TRIWARD_TORTURE_MINUTES=$(MINUTES) TRIWARD_TORTURE_ROWS='$(ROWS)' TRIWARD_TORTURE_SEED='$(SEED)' \
	  go test -count=1 -v -run '^TestTorture$$' -timeout 0 ./appliance/systemtest

# Its answers are kept (appliance/internal/lokigoldens/testdata), so that no test wants one. bench-logs runs it too.
LOKI ?= $(CACHE)/loki
.PHONY: loki-goldens
loki-goldens: $(LOKI) ## ask a Loki 1.6.1 (LOKI=program) the questions of the differential test again and keep its answers
	go run ./appliance/internal/lokigoldens/record -loki '$(LOKI)' -dir appliance/internal/lokigoldens/testdata
	@echo 'make loki-goldens: passed'

.PHONY: torture-damage
torture-damage: ## twenty flipped bits in each kind of file, and damage of two nodes: DAMAGE_FLIPS=20 DAMAGE_KINDS='part of a name'
	$(MAKE) torture ROWS='bit-* damage-*' MINUTES=0 DAMAGE_FLIPS=$(or $(DAMAGE_FLIPS),20)

.PHONY: torture-search
torture-search: ## odd lines and random questions to log stores, held against a look at every line: MINUTES=60 SEED=1
	TRIWARD_CAMPAIGN=$(MINUTES) TRIWARD_SEED=$(or $(SEED),1) go test -count=1 -run '^TestCampaign$$' -timeout 0 ./logstore ./logstore/logql/storesource
	@echo 'make torture-search: passed'

.PHONY: fault-tools
fault-tools: ## install what disks and networks are broken with, when something is missing and we may
	@packaging/faults.sh install

BUG ?= all
.PHONY: torture-planted
torture-planted: fault-tools ## show that the tests bite: plant a bug (BUG=fsync-off) and see its row, or that of ROW=, turn red
	TRIWARD_PLANTED_BUG='$(BUG)' TRIWARD_PLANTED_ROW='$(ROW)' go test -count=1 -v -run '^(TestPlantedBugs|TestPlantedInRows)$$' -timeout 0 ./appliance/systemtest
	@echo 'make torture-planted: passed'

SCHEDULES ?= 2000
STEPS ?= 1000000
SIMULATION := ./appliance/internal/simulation
quiet_runs := grep -v -e '^=== ' -e '^ *--- PASS'
.PHONY: simulate
simulate: ## whole clusters in virtual time, SEED=1 SCHEDULES=2000, and STEPS=1000000 of the state machine against its model
	TRIWARD_SIM_SEED=$(or $(SEED),1) TRIWARD_SIM_SCHEDULES=$(SCHEDULES) \
	  go test -count=1 -v -timeout 120m -run '^TestSchedules$$' $(SIMULATION) | $(quiet_runs)
	TRIWARD_SIM_SEED=$(or $(SEED),1) TRIWARD_SIM_REAL=$$(( ($(SCHEDULES) + 19) / 20 )) \
	  go test -count=1 -v -timeout 120m -run '^TestSchedules$$' $(SIMULATION)/realstores | $(quiet_runs)
	TRIWARD_MODEL_SEED=$(or $(SEED),1) TRIWARD_MODEL_STEPS=$(STEPS) \
	  go test -count=1 -v -timeout 120m -run '^TestAgainstModel$$' ./raftstate/machine | $(quiet_runs)
	TRIWARD_MODEL_SEED=$(or $(SEED),1) TRIWARD_ALERT_TRIALS=$$(( ($(STEPS) + 9999) / 10000 )) \
	  go test -count=1 -v -timeout 120m -run '^TestAnyFault' ./appliance/alerting | $(quiet_runs)
	@echo 'make simulate: passed'

.PHONY: simulate-planted
simulate-planted: ## plant bugs in the source and count the schedules until each is found
	TRIWARD_SIM_PLANTED=400 go test -count=1 -v -timeout 120m -run '^TestPlantedBugs$$' $(SIMULATION) | $(quiet_runs)
	@echo 'make simulate-planted: passed'

.PHONY: bench-save
bench-save: go-build ## what a save of several GB costs intake, and what an incremental one writes; a quiet machine, TRIWARD_BENCH_GB
	TRIWARD_BIN=$(BIN) go test -run '^$$' -bench SaveUnderLoad -benchtime 1x -timeout 90m ./appliance/systemtest
	TRIWARD_BENCH_MB=4000 go test -run '^$$' -bench IncrementalSave -benchtime 1x -timeout 30m ./appliance/backup/repository

# The lines are loghub's, whose licence stays with them: they are not part of this repository.
LINES ?= 3000000
LOGS  ?= $(CURDIR)/../shared/data/logs
PEER  ?= $(CACHE)/victoria-logs
.PHONY: bench-logs
bench-logs: go-build $(PEER) $(LOKI) ## the log store beside VictoriaLogs and Loki: LINES=3000000 LOGS=folder of loghub's files; PEER= LOKI= for none, NODES=1, COLD=5 rounds, HOSTILE=0, TABLE=file for the tables; a quiet machine
	TRIWARD_BIN=$(BIN) TRIWARD_BENCH_LINES=$(LINES) TRIWARD_LOGS='$(LOGS)' TRIWARD_VICTORIALOGS='$(PEER)' TRIWARD_LOKI='$(LOKI)' TRIWARD_BENCH_NODES='$(NODES)' TRIWARD_BENCH_COLD='$(COLD)' TRIWARD_BENCH_HOSTILE='$(HOSTILE)' TRIWARD_BENCH_TABLE='$(TABLE)' \
	  go test -count=1 -v -run '^TestBenchLogs$$' -timeout 120m ./appliance/systemtest

.PHONY: bench
bench: go-build ## whole-path figures for docs/benchmarks.md, then those of the packages
	TRIWARD_BIN=$(BIN) go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./appliance/systemtest/...
	go test -run '^$$' -bench . -benchtime 2s -timeout 60m ./agent/... ./raftstate/... ./tsdb/... ./logstore/...

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) $(CACHE) $(WEB)/node_modules $(GRAMMAR)/node_modules
	find $(WEB)/dist -mindepth 1 -not -name .gitkeep -delete
