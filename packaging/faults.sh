#!/bin/sh
# faults.sh install  installs what the fault bench breaks disks and networks with, when something is missing and we are
#                    root on a Debian system. What cannot be installed leaves rows of the bench undone, which they say.
set -eu

missing() {
	command -v strace >/dev/null || echo strace
	command -v nft >/dev/null || echo nftables
	command -v ip >/dev/null || echo iproute2
	command -v mkfs.ext4 >/dev/null && command -v e2fsck >/dev/null || echo e2fsprogs
	command -v fsfreeze >/dev/null || echo util-linux
}

case "${1:-}" in
install)
	want=$(missing | tr '\n' ' ')
	if [ -z "$want" ]; then exit 0; fi
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "faults.sh: install the packages $want" >&2
		exit 0
	fi
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086
	if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends $want >/dev/null; }; then
		echo "faults.sh: could not install $want: what needs them is not run" >&2
	fi
	;;
*)
	echo "usage: faults.sh install" >&2
	exit 2
	;;
esac
