#!/usr/bin/env bash
# e2e.sh BIN: drives the page in Chromium (TRIWARD_CHROMIUM) against clusters of its own, started from the binaries in
# the folder BIN: on one from a cluster without agents to the first alert acknowledged; on another what a person does,
# then every page in two variants for axe, sideways scroll and CSP, and the loss of the node that the page talks to.
# TRIWARD_OUT names a folder for pictures of the pages.
set -euo pipefail

bin=$1
cd "$(dirname "$0")/../ui/web"
dir=$(mktemp -d)
devs=()
cleanup() {
	for dev in "${devs[@]}"; do kill "$dev" 2>/dev/null && wait "$dev" || true; done
	rm -rf "$dir"
}
trap cleanup EXIT

export XDG_STATE_HOME=$dir/state
# field NAME JS: of what the cluster NAME says of itself.
field() { node -e 'const d = JSON.parse(require("fs").readFileSync(process.argv[1])); console.log(eval("d." + process.argv[2]))' "$dir/$1.line" "$2"; }

# start NAME ARGS...: a cluster of its own; dev is its process.
start() {
	local name=$1
	shift
	"$bin/triward" dev --json --http-port 0 --data-dir "$dir/$name" "$@" >"$dir/$name.line" 2>"$dir/$name.log" &
	dev=$!
	devs+=("$dev")
	for _ in $(seq 600); do
		[ -s "$dir/$name.line" ] && break
		kill -0 "$dev" 2>/dev/null || break
		sleep 0.2
	done
	if [ ! -s "$dir/$name.line" ]; then
		tail -n 40 "$dir/$name.log"
		echo "e2e.sh: the cluster did not start" >&2
		exit 1
	fi
	TRIWARD_URL=$(field "$name" 'nodes[0].url')
	TRIWARD_USER=$(field "$name" user)
	TRIWARD_PASSWORD=$(field "$name" password)
	export TRIWARD_URL TRIWARD_USER TRIWARD_PASSWORD
}

# The story waits for an alert to end most of the time: what a person does goes on beside it.
start story --agent=false --loopback-receivers
mkdir "$dir/host"
TRIWARD_BIN=$bin TRIWARD_DIR=$dir/host TRIWARD_AGENT_URL=$(field story 'nodes[1].agent_url') \
	npm run --silent e2e:story >"$dir/story.out" 2>&1 &
story=$!

status=0
start data
export TRIWARD_LOG_COMMAND="echo \"e2e says \$WORD\" >> $dir/data/n1/node.log"
mkdir -p "$dir/data/n1" && echo 'e2e begins' >>"$dir/data/n1/node.log"
npm run --silent e2e || status=1

told=0
wait "$story" || told=1
cat "$dir/story.out"
if [ "$told" != 0 ]; then
	status=1
	tail -n 40 "$dir/story.log"
fi
kill "${devs[0]}"
wait "${devs[0]}" || true

# Two of the eight variants, so that each language, theme and size is looked at; SCREENS_SETS= (empty) takes all.
SCREENS_SETS=${SCREENS_SETS-zh-dark-phone,en-light-desktop} npm run --silent e2e:screens || status=1
TRIWARD_KILL_COMMAND="kill -9 $(field data 'nodes[0].pid')"
export TRIWARD_KILL_COMMAND
npm run --silent e2e:failover || status=1
[ "$status" = 0 ] || tail -n 40 "$dir/data.log"
exit "$status"
