package syslog

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// overflows learns from the kernel how many datagrams it dropped because the socket was full.
type overflows struct {
	oob        [64]byte
	seen, last uint32
}

func newOverflows(conn *net.UDPConn) *overflows {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // without it nothing is counted
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
		})
	}
	return &overflows{}
}

func (o *overflows) read(conn *net.UDPConn, buf []byte) (n int, from netip.AddrPort, err error) {
	n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, o.oob[:])
	if err != nil || oobn == 0 {
		return n, from, err
	}
	messages, perr := syscall.ParseSocketControlMessage(o.oob[:oobn])
	if perr != nil {
		return n, from, nil
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4 {
			o.seen = binary.NativeEndian.Uint32(m.Data)
		}
	}
	return n, from, nil
}

// lost returns how many more were dropped since the last call.
func (o *overflows) lost() int {
	n := o.seen - o.last
	o.last = o.seen
	return int(n)
}
