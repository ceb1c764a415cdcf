# shellcheck shell=bash
# Machines of systemd-nspawn for tests, to be sourced: a root tree made from Debian once and kept, copies of it that
# cost nothing (overlayfs), and a network of their own in a namespace that leads nowhere. Needs root on Debian.
#
#   machines_need          installs what this needs
#   machines_make          makes the tree, or finds it made
#   machines_begin DIR     makes the network; everything else lies below DIR
#   machine_boot NAME N    boots a machine with the address 10.77.0.N; it knows the others by MACHINES="name:N ..."
#   on NAME COMMAND...     runs a command there as root, at most LIMIT seconds (60)
#   machine_stop NAME      shuts it down; machine_boot boots it again as it was
#   machines_end           ends what is left: call it from a trap. It ends only what this shell started.

machines_suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
machines_tree=$PWD/.cache/machines/$machines_suite
machines_dir=
machines_net=
declare -A machine_pid=()

machines_need() {
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "machines need root on a Debian system" >&2
		return 1
	fi
	local missing=() tool
	for tool in systemd-nspawn:systemd-container mmdebstrap:mmdebstrap rpm:rpm curl:curl ip:iproute2 nsenter:util-linux; do
		command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
	done
	[ ${#missing[@]} = 0 ] && return
	DEBIAN_FRONTEND=noninteractive timeout 600 sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@" >/dev/null' - "${missing[@]}"
}

# machines_make makes the tree that all machines are copies of, from the mirrors of Debian that this machine is set up
# with, unless it is there from an earlier run.
machines_make() {
	local sources
	[ -e "$machines_tree/etc/os-release" ] && return
	[ -n "$(find /var/lib/apt/lists -name '*Packages*' -print -quit)" ] || timeout 300 apt-get -qq update
	# shellcheck disable=SC2016 # what stands in $() is apt's
	sources=$(apt-get indextargets --format '$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		sed -n 's/^Debian //p' | sort -u)
	[ -n "$sources" ] || {
		echo "machines: apt knows no mirror of Debian" >&2
		return 1
	}
	mkdir -p "${machines_tree%/*}"
	rm -rf "$machines_tree.new"
	# shellcheck disable=SC2016 # $1 is the tree
	timeout 900 mmdebstrap --quiet --variant=minbase --skip=check/empty \
		--include=systemd,systemd-sysv,dbus,iproute2,procps \
		--customize-hook='systemctl --root="$1" enable systemd-networkd >/dev/null 2>&1' \
		--customize-hook='rm -f "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/var/log/*.log; : >"$1"/etc/machine-id' \
		"$machines_suite" "$machines_tree.new" - <<<"$sources" || return
	mv "$machines_tree.new" "$machines_tree"
}

machines_begin() {
	machines_dir=$1
	machines_net=triward-$$
	ip netns add "$machines_net" || return
	ip -n "$machines_net" link set lo up
	ip -n "$machines_net" link add br0 type bridge && ip -n "$machines_net" link set br0 up
}

# machine_copy NAME gives a tree of its own at $machines_dir/NAME/tree.
machine_copy() {
	local dir=$machines_dir/$1
	mkdir -p "$dir"/{tree,upper,work}
	mountpoint -q "$dir/tree" ||
		mount -t overlay overlay -o "lowerdir=$machines_tree,upperdir=$dir/upper,workdir=$dir/work" "$dir/tree"
}

machine_boot() {
	local name=$1 number=$2 root=$machines_dir/$1/tree m leader
	machine_copy "$name" || return
	echo "$name" >"$root/etc/hostname"
	{
		echo "127.0.0.1 localhost"
		for m in $MACHINES; do echo "10.77.0.${m##*:} ${m%%:*}"; done
	} >"$root/etc/hosts"
	printf '[Match]\nName=host0\n[Network]\nAddress=10.77.0.%s/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' "$number" \
		>"$root/etc/systemd/network/10-host0.network"
	nsenter --net="/run/netns/$machines_net" systemd-nspawn --register=no --keep-unit -q -D "$root" --machine="$name" \
		--network-bridge=br0 --system-call-filter=adjtimex --resolv-conf=off --timezone=off --boot \
		>>"$machines_dir/$name/console" 2>&1 </dev/null &
	machine_pid[$name]=$!
	for _ in $(seq 240); do
		sleep 0.25
		kill -0 "${machine_pid[$name]}" 2>/dev/null || break
		leader=$(pgrep -P "${machine_pid[$name]}" | head -n 1) || continue
		echo "$leader" >"$machines_dir/$name/leader"
		LIMIT=5 on "$name" systemctl is-active --quiet multi-user.target 2>/dev/null && return
	done
	echo "machine $name did not come up" >&2
	tail -n 30 "$machines_dir/$name/console" >&2
	return 1
}

on() {
	local name=$1
	shift
	timeout --kill-after=5 "${LIMIT:-60}" nsenter --target "$(<"$machines_dir/$name/leader")" --all \
		env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive "$@"
}

machine_stop() {
	local pid=${machine_pid[$1]:-}
	[ -n "$pid" ] || return 0
	kill "$pid" 2>/dev/null # systemd-nspawn passes it on as an orderly poweroff
	for _ in $(seq 120); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.25
	done
	if kill -0 "$pid" 2>/dev/null; then
		kill -9 "$(<"$machines_dir/$1/leader")" "$pid" 2>/dev/null
	fi
	wait "$pid" 2>/dev/null
	unset "machine_pid[$1]"
	return 0
}

machines_end() {
	local name mount
	for name in "${!machine_pid[@]}"; do
		kill "${machine_pid[$name]}" 2>/dev/null
	done
	for name in "${!machine_pid[@]}"; do machine_stop "$name"; done
	[ -z "$machines_dir" ] || for mount in "$machines_dir"/*/tree; do
		mountpoint -q "$mount" && umount -l "$mount"
	done
	[ -z "$machines_net" ] || ip netns del "$machines_net"
	machines_net=
}
