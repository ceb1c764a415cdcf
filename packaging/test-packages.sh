#!/usr/bin/env bash
# test-packages.sh VERSION: does what docs/install.md says, with its own commands, on machines of systemd-nspawn on a
# network that leads nowhere: three nodes and two hosts from .deb; then docs/first-hour.md, whose first alert a program on
# another machine receives; an upgrade of all of them while lines are written; removal; and the .rpm under `rpm --root`.
# Needs root on Debian. NFPM names the nfpm program; KEEP=1 keeps the folder with what every step printed; BUILT=FOLDER
# takes the packages of such a folder instead of building them.
#
# Prints the time of each step and ends with one line, "N passed, N failed". It takes about eight minutes, of which the
# tree of Debian is half a minute the first time, two builds are one to three, and a silent agent three.
set -uo pipefail
self=$(realpath "$0")
cd "${self%/*}/.." || exit 1
# shellcheck source=packaging/machines.sh
. packaging/machines.sh

version=$1
arch=$(go env GOHOSTARCH)
base=${version%%-*}
newer=${base%.*}.$((${base##*.} + 1))
nodes=(node1 node2 node3)
hosts=(host1 host2)
MACHINES="node1:1 node2:2 node3:3 host1:11 host2:12 desk1:21" # somebody is told of alerts at desk1
lines=/var/log/ledger.log # of host1; every line has its number
media=/media/triward      # where a person would have put the packages

mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/test-packages.XXXXXX")
passed=0
failed=0
steps=$(grep -c '^step ' "$self")
writers=()

finish() {
	trap - EXIT INT TERM
	[ ${#writers[@]} = 0 ] || kill "${writers[@]}" 2>/dev/null
	machines_end
	if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf "$work"; fi
	echo "$passed passed, $failed failed, $SECONDS s"
	exit $((failed > 0 || passed < steps)) # a bare exit would give what it was called with
}
trap finish EXIT
trap 'failed=$((failed + 1)); exit' INT TERM

# step WHAT COMMAND...: one line with the time it took; after a failure what it printed, and the end. It must stand alone
# in its line: where its result is looked at, the shell passes over what fails within.
step() {
	local what=$1 began=$EPOCHREALTIME took log m
	log=$work/step-$(printf '%02d' $((passed + failed + 1)))
	shift
	(
		set -e
		"$@"
	) >"$log" 2>&1 </dev/null
	local code=$?
	took=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
	if [ $code = 0 ]; then
		passed=$((passed + 1))
		printf 'ok      %6s s  %s\n' "$took" "$what"
		return
	fi
	failed=$((failed + 1))
	for m in "${!machine_pid[@]}"; do
		LIMIT=10 on "$m" journalctl --no-pager -q -n 12 -u triward -u triward-agent 2>/dev/null | sed "s/^/  $m: /"
	done
	tail -n 40 "$log"
	printf 'FAILED  %6s s  %s\n' "$took" "$what"
	exit
}

boot() { # NAME:NUMBER
	machine_boot "${1%%:*}" "${1##*:}" && return
	failed=$((failed + 1))
	exit
}

# guide NAME MACHINE [TEXT FOR]...: runs the guide's commands of that name, with real tokens in the place of its dots.
# What it prints is the answer.
guide() {
	local name=$1 machine=$2 text
	text=$(packaging/guide.sh "$1")
	shift 2
	while [ $# -gt 0 ]; do
		text=${text//"$1"/"$2"}
		shift 2
	done
	echo "--- $machine: $name" >&2
	LIMIT=${LIMIT:-120} on "$machine" bash -euo pipefail -c "cd $media; $text"
}

ask() { # NODE ARGUMENTS...: the command line on a node
	local machine=$1
	shift
	LIMIT=${LIMIT:-30} on "$machine" triward "$@"
}

until_true() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.5
	done
}

carry() { # FOLDER MACHINE...: what the copying of files to a machine is here
	local from=$1 m
	shift
	for m in "$@"; do
		rm -rf "$machines_dir/$m/tree$media"
		mkdir -p "$machines_dir/$m/tree$media"
		cp "$work/$from"/*.deb "$work/$from/SHA256SUMS" "$machines_dir/$m/tree$media/"
	done
}

# shellcheck source=packaging/test-packages-steps.sh
. packaging/test-packages-steps.sh

machines_need >&2 || { failed=1; exit; }
step "packages $version and $newer are built" build
step "a tree of Debian" machines_make
machines_begin "$work/machines" || { failed=$((failed + 1)); exit; }

step ".rpm: install, verify, upgrade, erase" rpm_life
began=$SECONDS
began_at=$EPOCHSECONDS
for m in $MACHINES; do boot "$m"; done
step "six machines boot on a network without a way out" no_way_out
step "nodes are installed; nothing starts before it is set up" install_nodes
step "the first node founds the cluster" found
step "two nodes join" join
step "hosts are installed and enrolled" install_hosts
step "metrics and lines of both hosts are found on every node" arrived
echo "        $((SECONDS - began)) s from clean machines to data of all hosts"
step "the doctor finds nothing wrong" examined
step "somebody is to be told of alerts, and is reached" routed
step "an agent falls silent: its alert is received on another machine" alerted
echo "        $(<"$work/first-alert") s from clean machines to the first alert received (goal: 900)"
step "the end of the alert is received" resolved
step "a backup is made and found whole" backed_up
step "confinement holds, files belong to the services" confined
step "a reload takes over what it can" reload
start_lines
step "nodes are upgraded one after the other while lines are written" upgrade_nodes
step "agents are upgraded while lines are written" upgrade_hosts
for m in node3:3 host2:12; do
	machine_stop "${m%%:*}"
	boot "$m"
done
step "machines that boot again go on by themselves" reboot
stop_lines
step "every line that was written is on every node exactly once" counted
step "what the nodes acknowledged during the upgrade is on every node" acknowledged
step "removing keeps the data" removed
step "installing again goes on with it" installed_again
step "purging leaves nothing" purged
