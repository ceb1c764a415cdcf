#!/usr/bin/env bash
# guide.sh NAME   prints the commands that docs/install.md has under the mark "run: NAME"
# guide.sh list   prints the names in the order of the document
# guide.sh check  fails when the documents in English and Chinese do not have the same commands
set -euo pipefail
cd "$(dirname "$0")/../docs"

list() { sed -n 's/^<!-- run: \([a-z-]*\) -->$/\1/p' "$1"; }

block() { # FILE NAME
	awk -v mark="<!-- run: $2 -->" '
		$0 == mark { found = 1; next }
		found && /^```sh$/ { inside = 1; next }
		inside && /^```$/ { exit }
		inside { print }' "$1"
}

case "${1:-}" in
list)
	list install.md
	;;
check)
	diff <(list install.md) <(list zh/install.md) || {
		echo "guide.sh: zh/install.md has other commands" >&2
		exit 1
	}
	for name in $(list install.md); do
		if [ -z "$(block install.md "$name")" ] || ! diff <(block install.md "$name") <(block zh/install.md "$name"); then
			echo "guide.sh: $name is empty or differs between the languages" >&2
			exit 1
		fi
	done
	;;
?*)
	text=$(block install.md "$1")
	[ -n "$text" ] || {
		echo "guide.sh: docs/install.md has no commands named $1" >&2
		exit 1
	}
	printf '%s\n' "$text"
	;;
*)
	echo "usage: guide.sh NAME|list|check" >&2
	exit 2
	;;
esac
