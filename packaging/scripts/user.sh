# The service's user and its directory. The node's commands act as whoever owns the directory, so it is there before
# any of them runs. Works where systemd does not run, such as in an image that is being made.
if command -v systemd-sysusers >/dev/null 2>&1; then
	systemd-sysusers @NAME@.conf
elif ! getent passwd @NAME@ >/dev/null; then
	useradd --system --user-group --no-create-home --home-dir /var/lib/@NAME@ --shell /usr/sbin/nologin @NAME@
fi
if [ ! -e /var/lib/@NAME@ ]; then
	mkdir -m 0700 /var/lib/@NAME@
fi
if [ "$(stat -L -c %u /var/lib/@NAME@)" = 0 ]; then # new, or a file system that was just mounted there
	chown @NAME@:@NAME@ /var/lib/@NAME@
	chmod 0700 /var/lib/@NAME@
fi
if [ @NAME@ = triward ] && [ ! -e /var/backups/triward ]; then # backup.dir; the service may write there
	mkdir -p -m 0755 /var/backups
	mkdir -m 0700 /var/backups/triward
	chown triward:triward /var/backups/triward
fi
