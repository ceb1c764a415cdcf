# shellcheck shell=bash disable=SC2154,SC2016
# The steps of test-packages.sh, which sources this. Each runs in a shell of its own with errexit: what a later one needs
# is in files below $work.

build() {
	if [ -n "${BUILT:-}" ]; then
		cp -r "$BUILT/old" "$BUILT/new" "$work/"
		return
	fi
	packaging/packages.sh "$version" "$work/old" "$arch"
	packaging/packages.sh "$newer" "$work/new" "$arch"
}

no_way_out() {
	local m
	for m in "${nodes[@]}" "${hosts[@]}"; do
		until_true 20 on "$m" sh -c 'ip -4 addr show dev host0 | grep -q 10.77.0. && [ "$(systemctl is-system-running)" != starting ]'
		on "$m" getent hosts node1 node2 node3
		[ -z "$(on "$m" ip route show default)" ]
	done
	[ -z "$(ip -n "$machines_net" route show default)" ]
	[ "$(ip -n "$machines_net" -o link show type veth | wc -l)" = 5 ] # the machines and nobody else
}

unit_is() { # MACHINE UNIT WANT: of its state, active or inactive; a failed unit is neither
	local got
	got=$(on "$1" systemctl show -P ActiveState "$2")
	[ "$got" = "$3" ] || {
		echo "$2 on $1 is $got, want $3"
		return 1
	}
}

install_nodes() {
	local n
	carry old "${nodes[@]}"
	for n in "${nodes[@]}"; do
		guide install-node "$n"
		[ "$(on "$n" systemctl is-enabled triward)" = enabled ]
		unit_is "$n" triward inactive
		on "$n" systemctl start triward # too early: says nothing and does nothing
		unit_is "$n" triward inactive
		[ "$(on "$n" systemctl show -P NRestarts triward)" = 0 ]
		[ "$(on "$n" stat -c '%U %a' /var/lib/triward)" = "triward 700" ]
		echo "# an administrator's own line" >>"$machines_dir/$n/tree/etc/triward/triward.yaml"
	done
	on node1 test -s /usr/share/bash-completion/completions/triward
	on node1 test -s /usr/share/doc/triward/copyright
}

found() {
	guide init node1 >"$work/init"
	cat "$work/init"
	sed -n 's/^password *//p' "$work/init" >"$work/password"
	[ -s "$work/password" ]
	unit_is node1 triward active
	guide node-token node1 >"$work/join"
	grep '^twn_' "$work/join"
	guide ca node1
	cp "$machines_dir/node1/tree$media/ca.pem" "$work/ca.pem"
	# The password that was printed opens a session, from another machine that trusts the CA alone.
	[ "$(log_in node2 "$(<"$work/password")")" = 200 ]
	[ "$(log_in node2 wrong)" = 401 ]
}

log_in() { # MACHINE PASSWORD: with this machine's curl in the network of that one
	timeout 30 nsenter --net --target "$(<"$machines_dir/$1/leader")" curl --silent --output /dev/null --write-out '%{http_code}' \
		--noproxy '*' --cacert "$work/ca.pem" --resolve node1:8443:10.77.0.1 \
		--json "{\"user\": \"admin\", \"password\": \"$2\"}" https://node1:8443/v1/login
}

whole() { # VERSION of every member; all of them vote, there is a leader and nobody is behind
	local status members
	status=$(ask node1 cluster status -o json) && members=$(ask node1 cluster members) || return 1
	echo "$status" | tr -d ' \n' >"$work/status"
	grep -q '"tolerates":1' "$work/status" || return 1
	! grep -q '"role":"unreachable"' "$work/status" || return 1
	[ "$(grep -c " true .* $1 " <<<"$members")" = 3 ]
}

join() {
	local n
	for n in node2 node3; do
		guide join "$n" 'twn_...' "$(grep ^twn_ "$work/join")"
		unit_is "$n" triward active
	done
	until_true 60 whole "$version"
	guide members node1
}

# The one place that knows how an agent is let in.
register() { # MACHINE: with a token in $work/agent-token
	guide install-agent "$1" 'twa_...' "$(grep ^twa_ "$work/agent-token")"
}

install_hosts() {
	local h
	guide agent-token node1 >"$work/agent-token"
	carry old "${hosts[@]}"
	for h in "${hosts[@]}"; do
		register "$h"
		unit_is "$h" triward-agent active
		on "$h" sh -c 'echo "the walrus of $(cat /etc/hostname) speaks" >>/var/log/walrus.log; echo "the walrus of $(cat /etc/hostname) writes" | systemd-cat -t walrus'
		guide agent-status "$h"
	done
}

host_arrived() { # NODE HOST
	ask "$1" query instant "node_load1{host=\"$2\"}" | grep node_load1 || return 1
	ask "$1" query instant "node_timex_sync_status{host=\"$2\"}" | grep node_timex || return 1
	ask "$1" logs query "walrus AND host:$2" | tee "$work/walrus"
	grep -q "the walrus of $2 speaks" "$work/walrus" && grep -q "the walrus of $2 writes" "$work/walrus"
}

arrived() {
	local n h
	for n in "${nodes[@]}"; do
		for h in "${hosts[@]}"; do until_true 60 host_arrived "$n" "$h"; done
	done
	guide see node1
	[ "$(ask node2 agents list | grep -c "host[12] .* $version ")" = 2 ]
}

strangers() { # MACHINE USER FOLDER: lists files that do not belong to the user
	on "$1" find "$3" ! -user "$2"
}

confined() {
	local n h
	for n in "${nodes[@]}"; do
		[ -z "$(strangers "$n" triward /var/lib/triward)" ]
		[ "$(on "$n" systemctl show -P NRestarts triward)" = 0 ]
		[ "$(on "$n" ps -o user= -C triward)" = triward ]
		ask "$n" query instant 'up' >/dev/null
	done
	for h in "${hosts[@]}"; do
		[ -z "$(strangers "$h" triward-agent /var/lib/triward-agent)" ]
		on "$h" sh -c 'grep CapEff /proc/$(systemctl show -P MainPID triward-agent)/status' | grep -qi '0000000000000004$'
	done
	on node1 sh -c 'grep CapEff /proc/$(systemctl show -P MainPID triward)/status' | grep -qi '0000000000000400$'
	on node1 systemd-analyze security --no-pager --threshold=15 triward
	on host1 systemd-analyze security --no-pager --threshold=23 triward-agent
	# A command of root on the node leaves nothing of root's behind.
	on node1 triward server >"$work/second" 2>&1 && return 1
	grep -q 'in use' "$work/second"
	[ -z "$(strangers node1 triward /var/lib/triward)" ]
}

reload() {
	sed -i 's/^  level: info/  level: debug/' "$machines_dir/node1/tree/etc/triward/triward.yaml"
	guide reload node1
	until_true 20 logged node1 'configuration is read anew'
	logged node1 'log.level=debug'
	unit_is node1 triward active
	[ "$(on node1 systemctl show -P NRestarts triward)" = 0 ]
	echo 'colour: red' >>"$machines_dir/node1/tree/etc/triward/triward.yaml"
	if on node1 systemctl reload triward; then return 1; fi
	unit_is node1 triward active
	sed -i -e '/^colour/d' -e 's/^  level: debug/  level: info/' "$machines_dir/node1/tree/etc/triward/triward.yaml"
	on node1 systemctl reload triward
}

logged() { on "$1" journalctl --no-pager -q -u triward | grep -F -- "$2" >/dev/null; }

# The ledger: host1 writes numbered lines to a file that its agent follows, for at most ten minutes.
start_lines() {
	rm -f "$work/stop"
	(
		for ((i = 1; i <= 12000; i++)); do
			[ ! -e "$work/stop" ] || break
			echo "ledger entry $i" >>"$machines_dir/host1/tree$lines"
			sleep 0.05
		done
	) &
	writer=$!
}

stop_lines() {
	touch "$work/stop"
	wait "$writer"
	writer=
}

upgrade_nodes() {
	local n
	carry new "${nodes[@]}"
	for n in "${nodes[@]}"; do
		guide upgrade-node "$n"
		unit_is "$n" triward active
		until_true 60 caught_up "$n"
		guide upgrade-wait "$n"
		grep "^# an administrator's own line" "$machines_dir/$n/tree/etc/triward/triward.yaml"
	done
	until_true 60 whole "$newer"
}

caught_up() { # NODE: it runs the new program and is as far as the others
	ask "$1" cluster status -o json | tr -d ' \n' >"$work/status" || return 1
	grep -q '"tolerates":1' "$work/status" && ! grep -q '"role":"unreachable"' "$work/status" || return 1
	ask "$1" cluster members | grep "^$1 .* $newer "
}

upgrade_hosts() {
	local h
	carry new "${hosts[@]}"
	for h in "${hosts[@]}"; do
		guide upgrade-agent "$h"
		unit_is "$h" triward-agent active
	done
	until_true 60 agents_are "$newer"
}

agents_are() { [ "$(ask node1 agents list | grep -c "host[12] .* $1 ")" = 2 ]; }

# node3 and host2 were shut down and booted again; besides, the node's process on node2 dies.
reboot() {
	until_true 30 unit_is node3 triward active
	until_true 30 unit_is host2 triward-agent active
	until_true 60 whole "$newer"
	# What systemd said after the agent had stopped is not lost with the boot.
	until_true 60 said host2 '"Stopped triward-agent.service"'
	on node2 sh -c 'kill -9 $(systemctl show -P MainPID triward)'
	until_true 30 restarted node2
	until_true 60 whole "$newer"
}

said() { ask node1 logs query "$2 AND host:$1" | grep "$1"; }

restarted() { unit_is "$1" triward active && [ "$(on "$1" systemctl show -P NRestarts triward)" = 1 ]; }

all_there() { # NODE WRITTEN
	LIMIT=60 ask "$1" logs query 'ledger AND entry' --start now-1h --limit 20000 |
		sed -n 's/.*: ledger entry \([0-9]*\)$/\1/p' | sort -n >"$work/found"
	[ "$(wc -l <"$work/found")" -ge "$2" ]
}

counted() {
	local n written
	written=$(wc -l <"$machines_dir/host1/tree$lines")
	[ "$written" -gt 300 ]
	for n in "${nodes[@]}"; do
		until_true 90 all_there "$n" "$written" || true
		echo "$n: $written written, $(wc -l <"$work/found") found, $(sort -u "$work/found" | wc -l) different"
		cmp <(seq "$written") "$work/found"
	done
}

removed() {
	local n
	guide remove-agent host2
	on host2 test -s /var/lib/triward-agent/identity.json
	on host2 test -s /etc/triward-agent/agent.yaml
	guide remove-node node3
	if on node3 systemctl cat triward; then return 1; fi
	on node3 test -s /var/lib/triward/tls/node.pem
	on node3 grep -q "own line" /etc/triward/triward.yaml
	if on node3 test -e /usr/bin/triward; then return 1; fi
	n=$(ask node1 cluster status | tee /dev/stderr | grep -c unreachable)
	[ "$n" = 1 ]
}

installed_again() {
	guide install-node node3
	on node3 systemctl start triward
	until_true 60 whole "$newer"
	all_there node3 "$(wc -l <"$machines_dir/host1/tree$lines")"
}

gone() { # MACHINE PACKAGE
	local path
	for path in /var/lib/$2 /etc/$2 /usr/share/doc/$2 /usr/bin/$2 /usr/lib/systemd/system/$2.service; do
		if on "$1" test -e "$path"; then
			echo "$1 still has $path"
			return 1
		fi
	done
	[ -z "$(on "$1" systemctl list-units --all --plain --no-legend "$2.service")" ]
	if on "$1" dpkg -s "$2"; then return 1; fi
	on "$1" find /etc /usr/lib/systemd /run/systemd/system -name "*$2.service*" | if grep .; then return 1; fi
}

purged() {
	guide purge-agent host2 # removed before
	gone host2 triward-agent
	guide purge-agent host1
	gone host1 triward-agent
	guide purge-node node3
	gone node3 triward
}

# .rpm under rpm --root, in a tree that never boots. Its base is not of .rpm, so rpm knows nothing of what the packages
# depend on.
rpm_life() {
	local root=$machines_dir/rpm/tree
	machine_copy rpm
	rpm_there() { timeout 120 rpm --root "$root" --dbpath /var/lib/rpm "$@"; }
	rpm_there --initdb
	mkdir -p "$root$media"
	cp "$work/old"/*.rpm "$root$media/"
	in_rpm rpm-install
	[ "$(chroot "$root" systemctl is-enabled triward)" = enabled ]
	[ "$(chroot "$root" stat -c '%U %a' /var/lib/triward-agent)" = "triward-agent 700" ]
	chroot "$root" triward version | grep "$version"
	echo "# an administrator's own line" >>"$root/etc/triward/triward.yaml"
	if rpm_there -V triward; then return 1; fi # and it says so
	rm "$root$media"/*.rpm
	cp "$work/new"/*.rpm "$root$media/"
	in_rpm rpm-install && return 1 # verifying names the edited file, which is still there
	[ "$(rpm_there -q triward triward-agent | wc -l)" = 2 ]
	chroot "$root" triward version | grep "$newer"
	grep "own line" "$root/etc/triward/triward.yaml"
	touch "$root/var/lib/triward/data"
	in_rpm rpm-remove | tee "$work/erase"
	grep 'the data is kept' "$work/erase"
	[ -e "$root/var/lib/triward/data" ]
	[ ! -e "$root/usr/bin/triward" ]
	[ ! -e "$root/usr/bin/triward-agent" ]
	[ -e "$root/etc/triward/triward.yaml.rpmsave" ]
	[ -z "$(chroot "$root" find /etc/systemd -name '*triward*')" ]
}

# in_rpm NAME runs the guide's commands of that name with rpm working on the tree.
in_rpm() {
	local text
	text=$(packaging/guide.sh "$1" | sed -E "s|^rpm (-[Ue])|rpm --root $root --dbpath /var/lib/rpm --nodeps \1|; s|^rpm -V|rpm --root $root --dbpath /var/lib/rpm --nodeps -V|")
	(cd "$root$media" && timeout 180 bash -euo pipefail -c "$text") 2>&1
}
