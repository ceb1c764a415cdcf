#!/bin/sh
# syslog.sh find     fails unless rsyslogd and logger are there
# syslog.sh install  installs them when they are missing and we are root on a Debian system
set -eu

find_both() {
	PATH="$PATH:/usr/sbin:/sbin"
	command -v rsyslogd && command -v logger
}

case "${1:-}" in
find)
	find_both
	;;
install)
	if find_both >/dev/null; then exit 0; fi
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "syslog.sh: rsyslogd or logger is missing; install the packages rsyslog and bsdutils" >&2
		exit 0
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update && apt-get -qq install -y --no-install-recommends rsyslog bsdutils >/dev/null
	;;
*)
	echo "usage: syslog.sh find|install" >&2
	exit 2
	;;
esac
