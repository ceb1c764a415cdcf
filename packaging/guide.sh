#!/usr/bin/env bash
# guide.sh NAME   prints the commands that the guides have under the mark "run: NAME"
# guide.sh list   prints the names in the order of the guides
# guide.sh check  fails when the guides in English and Chinese do not have the same commands
set -euo pipefail
cd "$(dirname "$0")/../docs"
guides=(install.md first-hour.md)

list() { sed -n 's/^<!-- run: \([a-z-]*\) -->$/\1/p' "$@"; }

block() { # NAME FILE...
	awk -v mark="<!-- run: $1 -->" '
		$0 == mark { found = 1; next }
		found && /^```sh$/ { inside = 1; next }
		inside && /^```$/ { exit }
		inside { print }' "${@:2}"
}

case "${1:-}" in
list)
	list "${guides[@]}"
	;;
check)
	if list "${guides[@]}" | sort | uniq -d | grep .; then
		echo "guide.sh: these names stand twice" >&2
		exit 1
	fi
	for guide in "${guides[@]}"; do
		diff <(list "$guide") <(list "zh/$guide") || {
			echo "guide.sh: zh/$guide has other commands" >&2
			exit 1
		}
		for name in $(list "$guide"); do
			if [ -z "$(block "$name" "$guide")" ] || ! diff <(block "$name" "$guide") <(block "$name" "zh/$guide"); then
				echo "guide.sh: $name in $guide is empty or differs between the languages" >&2
				exit 1
			fi
		done
	done
	;;
?*)
	text=$(block "$1" "${guides[@]}")
	[ -n "$text" ] || {
		echo "guide.sh: no guide has commands named $1" >&2
		exit 1
	}
	printf '%s\n' "$text"
	;;
*)
	echo "usage: guide.sh NAME|list|check" >&2
	exit 2
	;;
esac
