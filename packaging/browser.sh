#!/bin/sh
# browser.sh find     prints the path of a Chromium, or fails
# browser.sh install  installs one with fonts for Chinese when it is missing and we are root on a Debian system
set -eu

find_browser() {
	for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome-stable google-chrome; do
		[ -n "$name" ] && command -v "$name" && return 0
	done
	return 1
}

has_cjk() { command -v fc-list >/dev/null && fc-list :lang=zh family | grep -q .; }

case "${1:-}" in
find)
	find_browser
	;;
install)
	if find_browser >/dev/null && has_cjk; then exit 0; fi
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "browser.sh: Chromium or a Chinese font is missing; install the packages chromium and fonts-noto-cjk" >&2
		exit 0
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium fonts-noto-cjk fontconfig >/dev/null
	;;
*)
	echo "usage: browser.sh find|install" >&2
	exit 2
	;;
esac
