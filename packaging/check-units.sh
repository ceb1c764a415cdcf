#!/usr/bin/env bash
# Holds the units to their scores of `systemd-analyze security` (tenths; less is tighter) and to what systemd says of
# their form.
set -uo pipefail
cd "$(dirname "$0")/systemd" || exit 1

if ! command -v systemd-analyze >/dev/null; then
	echo "check-units: NOT RUN, there is no systemd-analyze on this machine"
	test -z "${CI_STRICT:-}"
	exit
fi

failed=0
check() { # UNIT MOST
	local report
	if report=$(systemd-analyze security --offline=true --no-pager --threshold="$2" "$1" 2>&1); then
		echo "check-units: $(tail -n 1 <<<"$report" | sed 's/^[^O]*//; s/ [A-Z]* *[^ ]*$//'), at most ${2%?}.${2: -1}"
	else
		grep -v '✓' <<<"$report"
		echo "check-units: $1 is more exposed than ${2%?}.${2: -1}"
		failed=1
	fi
	# The programs are not where the unit expects them; everything else it says is a fault.
	report=$(systemd-analyze verify --recursive-errors=no "./$1" 2>&1 | grep -F "$1" | grep -v 'is not executable: No such file')
	if [ -n "$report" ]; then
		printf '%s\n' "$report"
		failed=1
	fi
}

check triward.service 15
check triward-agent.service 23
exit "$failed"
