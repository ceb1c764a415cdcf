#!/usr/bin/env bash
# e2e.sh BIN: drives the page in Chromium (TRIWARD_CHROMIUM) against clusters of its own, started from the binaries in
# the folder BIN: first from a cluster without agents to the first alert acknowledged; then, on another, what a person
# does, every page in two variants for axe, sideways scroll and CSP, and the loss of the node that the page talks to.
# TRIWARD_OUT keeps the pictures.
set -euo pipefail

bin=$1
cd "$(dirname "$0")/../ui/web"
dir=$(mktemp -d)
cleanup() {
	[ -z "${dev:-}" ] || { kill "$dev" 2>/dev/null || true; wait "$dev" || true; }
	rm -rf "$dir"
}
trap cleanup EXIT

export XDG_STATE_HOME=$dir/state
field() { node -e 'const d = JSON.parse(require("fs").readFileSync(process.argv[1])); console.log(eval("d." + process.argv[2]))' "$dir/line" "$1"; }

# start ARGS...: a cluster of its own; what it says of itself is in $dir/line.
start() {
	rm -f "$dir/line"
	"$bin/triward" dev --json --http-port 0 "$@" >"$dir/line" 2>"$dir/log" &
	dev=$!
	for _ in $(seq 600); do
		[ -s "$dir/line" ] && break
		kill -0 "$dev" 2>/dev/null || break
		sleep 0.2
	done
	if [ ! -s "$dir/line" ]; then
		tail -n 40 "$dir/log"
		echo "e2e.sh: the cluster did not start" >&2
		exit 1
	fi
	TRIWARD_URL=$(field 'nodes[0].url')
	TRIWARD_USER=$(field user)
	TRIWARD_PASSWORD=$(field password)
	export TRIWARD_URL TRIWARD_USER TRIWARD_PASSWORD
}

status=0
start --data-dir "$dir/story" --agent=false --loopback-receivers
mkdir "$dir/host"
TRIWARD_BIN=$bin TRIWARD_DIR=$dir/host TRIWARD_AGENT_URL=$(field 'nodes[1].agent_url') npm run --silent e2e:story || status=1
[ "$status" = 0 ] || tail -n 40 "$dir/log"
kill "$dev"
wait "$dev" || true

start --data-dir "$dir/data"
export TRIWARD_LOG_COMMAND="echo \"e2e says \$WORD\" >> $dir/data/n1/node.log"
mkdir -p "$dir/data/n1" && echo 'e2e begins' >>"$dir/data/n1/node.log"

npm run --silent e2e || status=1
# Two of the eight variants, so that each language, theme and size is looked at; SCREENS_SETS= (empty) takes all.
SCREENS_SETS=${SCREENS_SETS-zh-dark-phone,en-light-desktop} TRIWARD_OUT=${TRIWARD_OUT:-$dir/out} npm run --silent e2e:screens || status=1
export TRIWARD_KILL_COMMAND="kill -9 $(field 'nodes[0].pid')"
npm run --silent e2e:failover || status=1
[ "$status" = 0 ] || tail -n 40 "$dir/log"
exit "$status"
