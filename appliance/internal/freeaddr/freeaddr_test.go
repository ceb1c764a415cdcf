package freeaddr

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
)

func TestAddressesAreOnesOwn(t *testing.T) {
	hosts := make(map[string]bool)
	for range 20 {
		all, err := Addresses(9)
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]bool)
		for _, address := range all {
			a, err := netip.ParseAddrPort(address)
			if err != nil || !a.Addr().IsLoopback() || seen[address] || a.Port() < lowestPort || a.Port() >= highestPort {
				t.Errorf("%s: %v", address, err)
			}
			seen[address] = true
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			hosts[a.Addr().String()] = true
		}
	}
	if runtime.GOOS == "linux" && len(hosts) < 19 {
		t.Errorf("20 askers got %d hosts", len(hosts))
	}
	if _, err := Free("203.0.113.1", 1); err == nil {
		t.Error("a port of another machine is free")
	}
}
