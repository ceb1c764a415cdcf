//go:build !linux

package syslog

import (
	"net"
	"net/netip"
)

// overflows is not known here.
type overflows struct{}

func newOverflows(*net.UDPConn) *overflows { return &overflows{} }

func (*overflows) read(conn *net.UDPConn, buf []byte) (n int, from netip.AddrPort, err error) {
	return conn.ReadFromUDPAddrPort(buf)
}

func (*overflows) lost() int { return 0 }
