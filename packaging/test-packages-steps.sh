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
	for m in $MACHINES; do
		m=${m%%:*}
		until_true 20 on "$m" sh -c 'ip -4 addr show dev host0 | grep -q 10.77.0. && [ "$(systemctl is-system-running)" != starting ]'
		on "$m" getent hosts node1 node2 node3
		[ -z "$(on "$m" ip route show default)" ]
	done
	[ -z "$(ip -n "$machines_net" route show default)" ]
	[ "$(ip -n "$machines_net" -o link show type veth | wc -l)" = "$(wc -w <<<"$MACHINES")" ] # the machines and nobody else
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

set_password() {
	web node2 --output /dev/null --write-out '%{http_code}' \
		--json "{\"token\": \"${link#*#}\", \"password\": \"$(<"$work/password")\"}" https://node1:8443/v1/setup
}

found() {
	local link
	guide init node1 >"$work/init"
	cat "$work/init"
	link=$(sed -n 's/^link *//p' "$work/init")
	[ "${link%%#*}" = https://node1:8443/setup ]
	echo "a password of $RANDOM$RANDOM" >"$work/password"
	unit_is node1 triward active
	guide node-token node1 >"$work/join"
	grep '^twn_' "$work/join"
	guide ca node1 # of the first hour; the browser needs it now
	cp "$machines_dir/node1/tree$media/ca.pem" "$work/ca.pem"
	# The link that was printed sets a password once, and that opens a session, from another machine that trusts the CA alone.
	set_password >"$work/set"
	[ "$(<"$work/set")" = 200 ]
	[ "$(set_password)" != 200 ]
	[ "$(log_in node2 wrong)" = 401 ]
	[ "$(log_in node2 "$(<"$work/password")")" = 200 ]
	# With it somebody makes a token for a program that sends.
	web node2 --fail --cookie "$work/cookies" --json '{"name": "ledger", "role": "ingest"}' https://node1:8443/v1/tokens/api >"$work/ingest.json"
	sed -n 's/.*"token": *"\(twt_[^"]*\)".*/\1/p' "$work/ingest.json" >"$work/ingest"
	[ -s "$work/ingest" ]
}

log_in() { # MACHINE PASSWORD
	web "$1" --output /dev/null --write-out '%{http_code}' --cookie-jar "$work/cookies" \
		--json "{\"user\": \"admin\", \"password\": \"$2\"}" https://node1:8443/v1/login
}

web() { # MACHINE ARGUMENTS: this machine's curl in the network of that one, which trusts the cluster's CA alone
	local machine=$1
	shift
	timeout 30 nsenter --net --target "$(<"$machines_dir/$machine/leader")" curl --silent --noproxy '*' --cacert "$work/ca.pem" \
		--resolve node1:8443:10.77.0.1 --resolve node2:8443:10.77.0.2 --resolve node3:8443:10.77.0.3 "$@"
}

whole() { # VERSION of every member; all of them vote, there is a leader and nobody is behind
	local status members
	status=$(ask node1 cluster status -o json) && members=$(ask node1 cluster members) || return 1
	echo "$status" | tr -d ' \n' >"$work/status"
	grep -q '"tolerates":1' "$work/status" || return 1
	! grep -q '"role":"unreachable"' "$work/status" || return 1
	[ "$(grep -c " voter .* $1 " <<<"$members")" = 3 ]
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
enroll() { # MACHINE: with a token in $work/agent-token
	guide install-agent "$1" 'twa_...' "$(grep ^twa_ "$work/agent-token")"
}

install_hosts() {
	local h
	guide agent-token node1 >"$work/agent-token"
	carry old "${hosts[@]}"
	for h in "${hosts[@]}"; do
		enroll "$h"
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

# The first hour.

examined() {
	local n code
	for n in "${nodes[@]}"; do
		code=0
		guide doctor "$n" >"$work/doctor-$n" || code=$?
		cat "$work/doctor-$n"
		# A new cluster has no backup, and these machines have neither a time service, nor a disk, nor limits of their own.
		[ "$code" = 3 ]
		awk '/^$/ { exit } $2 == "warning" { print $1 }' "$work/doctor-$n" | sort -u | grep -vE '^(backup|clock|disk|limits)$' && return 1
		grep -q '^versions *ok' "$work/doctor-$n"
		grep -q "^ports *ok *browsers of" "$work/doctor-$n"
	done
}

# A program that is told of alerts: one request, whose body becomes a line of a file with the time it came.
desk() {
	local tree=$machines_dir/desk1/tree
	cat >"$tree/usr/local/bin/told" <<'END'
#!/bin/bash
LC_ALL=C
length=0
while IFS= read -r line; do
	line=${line%$'\r'}
	[ -n "$line" ] || break
	case ${line,,} in content-length:*) length=${line##*[: ]} ;; esac
done
IFS= read -r -t 10 -N "$length" body
printf '%s %s\n' "$EPOCHSECONDS" "$body" >>/var/log/told
printf 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
END
	chmod 755 "$tree/usr/local/bin/told"
	printf '[Socket]\nListenStream=9000\nAccept=yes\n' >"$tree/etc/systemd/system/told.socket"
	printf '[Service]\nExecStart=/usr/local/bin/told\nStandardInput=socket\n' >"$tree/etc/systemd/system/told@.service"
	on desk1 systemctl daemon-reload
	on desk1 systemctl start told.socket
}

told() { # TEXT...: a message with all of these has come; prints when
	local text lines
	lines=$(cat "$machines_dir/desk1/tree/var/log/told" 2>/dev/null) || return 1
	for text in "$@"; do lines=$(grep -F -- "$text" <<<"$lines") || return 1; done
	head -n 1 <<<"${lines%% *}"
}

routed() {
	desk
	guide routes node1
	until_true 20 told Triward # the test message
}

alerted() {
	guide silence-host host2
	until_true 240 told '"status":"firing"' AgentSilent host2
	echo $(($(told '"status":"firing"' AgentSilent host2) - began_at)) >"$work/first-alert"
	guide alerts node2 | tee "$work/alerts"
	grep AgentSilent "$work/alerts"
}

resolved() {
	guide unsilence-host host2
	until_true 420 told '"status":"resolved"' AgentSilent host2
	[ "$(grep -F '"status":"firing"' "$machines_dir/desk1/tree/var/log/told" | grep -c AgentSilent)" = 1 ] # once
}

backed_up() {
	local n file
	guide first-backup node1
	for n in "${nodes[@]}"; do
		for file in "$machines_dir/$n/tree/var/backups/triward"/*; do
			[ -e "$file" ] || continue
			sed -n 's/^recovery *//p' "$work/init" >"$machines_dir/$n/tree$media/recovery.key"
			LIMIT=120 on "$n" triward snapshot verify "/var/backups/triward/${file##*/}" --identity "$media/recovery.key"
			rm "$machines_dir/$n/tree$media/recovery.key"
			echo "$n" >>"$work/backups"
		done
	done
	[ "$(wc -l <"$work/backups")" = 1 ]
	guide look node1
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

# Two ledgers, for at most ten minutes. host1 writes numbered lines to a file that its agent follows. And a program sends
# numbered lines to one node after the other, and notes which of them were acknowledged; it goes on when one is not.
start_lines() {
	rm -f "$work/stop"
	: >"$work/acknowledged"
	(
		for ((i = 1; i <= 12000; i++)); do
			[ ! -e "$work/stop" ] || break
			echo "ledger entry $i" >>"$machines_dir/host1/tree$lines"
			sleep 0.05
		done
	) &
	writers=($!)
	(
		for ((i = 1; i <= 6000; i++)); do
			[ ! -e "$work/stop" ] || break
			if web desk1 --max-time 5 --fail --oauth2-bearer "$(<"$work/ingest")" --json \
				"[{\"agent_id\": \"ledger\", \"timestamp\": \"$(date -u +%FT%T.%NZ)\", \"data\": {\"name\": \"ledger\", \"value\": \"acknowledged line $i\"}}]" \
				"https://${nodes[i % 3]}:8443/monitor/logs" >/dev/null; then
				echo "$i" >>"$work/acknowledged"
			fi
			sleep 0.05
		done
	) &
	writers+=($!)
}

stop_lines() {
	touch "$work/stop"
	wait "${writers[@]}"
	writers=()
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

acknowledged() {
	local n
	[ "$(wc -l <"$work/acknowledged")" -gt 100 ]
	for n in "${nodes[@]}"; do
		until_true 60 none_missing "$n" || true
		echo "$n: $(wc -l <"$work/acknowledged") acknowledged, missing: $(wc -l <"$work/missing")"
		[ ! -s "$work/missing" ]
	done
}

none_missing() { # NODE
	LIMIT=60 ask "$1" logs query 'acknowledged AND line' --start now-1h --limit 20000 |
		sed -n 's/.*acknowledged line \([0-9]*\)$/\1/p' | sort -u >"$work/found"
	sort "$work/acknowledged" | comm -23 - "$work/found" >"$work/missing"
	[ ! -s "$work/missing" ]
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
	# systemd may remember a unit for as long as something of its control group is left, but not as one that it has.
	[ "$(on "$1" systemctl show -P LoadState "$2.service") $(on "$1" systemctl show -P ActiveState "$2.service")" = "not-found inactive" ] || {
		on "$1" systemctl list-units --all "$2.service"
		return 1
	}
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
