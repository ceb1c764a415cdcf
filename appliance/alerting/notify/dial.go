package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Policy says what may be dialled.
type Policy struct {
	// AllowLoopback lets messages go to this machine: for tests.
	AllowLoopback bool
	// Cluster lists host:port of the listeners of all nodes, which are never dialled. nil: none.
	Cluster func() []string
}

// ErrDenied says that an address is one that messages never go to.
var ErrDenied = errors.New("messages are never sent there")

// Check says whether an address, as it was resolved, may be dialled.
func (p *Policy) Check(ctx context.Context, address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%s: %w", address, ErrDenied)
	}
	ip := at.Addr().Unmap().WithZone("")
	switch {
	case ip.IsLoopback() && !p.AllowLoopback:
		return fmt.Errorf("%s is this machine itself: %w", address, ErrDenied)
	case ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.IsUnspecified(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is a link-local, multicast or unspecified address: %w", address, ErrDenied)
	}
	if p.Cluster == nil {
		return nil
	}
	for _, own := range p.Cluster() {
		if sameListener(ctx, own, ip, at.Port()) {
			return fmt.Errorf("%s is a port of this cluster: %w", address, ErrDenied)
		}
	}
	return nil
}

// sameListener reports whether ip and port lead to the listener host:port.
func sameListener(ctx context.Context, own string, ip netip.Addr, port uint16) bool {
	host, p, err := net.SplitHostPort(own)
	if err != nil || p != fmt.Sprint(port) {
		return false
	}
	if listens, err := netip.ParseAddr(host); err == nil && !listens.IsUnspecified() {
		return listens.Unmap() == ip
	} else if err != nil && host != "" {
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return false
		}
		for _, f := range found {
			if f.Unmap() == ip {
				return true
			}
		}
		return false
	}
	return ip.IsLoopback() || ofThisMachine(ip) // it listens on every address
}

func ofThisMachine(ip netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == ip {
				return true
			}
		}
	}
	return false
}

// dial connects by the policy: what a name resolves to is looked at, not the name.
func (p *Policy) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		Timeout: Timeout, FallbackDelay: -1, KeepAlive: -1,
		ControlContext: func(ctx context.Context, _, resolved string, _ syscall.RawConn) error { return p.Check(ctx, resolved) },
	}
	return d.DialContext(ctx, network, address)
}

// checkName looks at what a host behind a proxy resolves to here. One that does not resolve here is the proxy's matter.
func (p *Policy) checkName(ctx context.Context, host, port string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for _, ip := range found {
		if err := p.Check(ctx, net.JoinHostPort(ip.Unmap().String(), port)); err != nil {
			return err
		}
	}
	return nil
}
