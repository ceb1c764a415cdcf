#!/usr/bin/env bash
# Lists the packages that `make race` is for: those whose code or tests start goroutines themselves. In a package that does
# not, the detector can find nothing, and what it is called by from several goroutines is tested in the packages that start them.
set -euo pipefail
cd "$(dirname "$0")/.."

starts='(^|[[:space:]])go (func|[A-Za-z_.]+\()|\.Go\(|AfterFunc\(|httptest\.New[A-Za-z]*Server|http\.Server\{|\.Serve\(|t\.Parallel\(\)|\.RunParallel\(|exec\.Command'
# These start whole nodes, or read whole stores: minutes and gigabytes under the detector. Their parts are raced by themselves.
left_out='^\./appliance/(scrub|systemtest|internal/testcluster)$'

grep -rlE --include='*.go' "$starts" agent appliance logstore raftstate tsdb ui/*.go | xargs -n 1 dirname | sort -u | sed 's|^|./|' |
	grep -vE "$left_out" |
	while read -r package; do
		if compgen -G "$package/*_test.go" >/dev/null; then echo "$package"; fi
	done
