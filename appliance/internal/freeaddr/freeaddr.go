// Package freeaddr finds addresses of this machine on which a program that is started a moment later can listen, and can
// listen again when it was stopped. A port that was free a moment ago is no such address: others look for free ports too.
// So whoever asks gets a loopback address of its own out of sixteen million, where there is more than one.
package freeaddr

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Common is the address that every machine has.
const Common = "127.0.0.1"

// Ports that are given out lie below those that systems give to outgoing connections (Linux from 32768 on).
const lowestPort, highestPort = 20000, 32000

// Own returns an address that nobody else has but by the worst of luck; Common where this machine has no other.
func Own() string {
	// 127.0.0.x and 127.1.1.1 are what people and configurations choose.
	host := net.IPv4(127, byte(16+rand.IntN(224)), byte(rand.IntN(256)), byte(1+rand.IntN(254))).String()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return Common
	}
	_ = l.Close()
	return host
}

// Free returns n ports of the host, each another one and none of them in use.
func Free(host string, n int) ([]int, error) {
	var held []net.Listener // until the last is found, so that none is found twice
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	var ports []int
	var errs []error
	for len(ports) < n {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		l, err := net.Listen("tcp", Join(host, port))
		if err == nil {
			held, ports = append(held, l), append(ports, port)
			continue
		}
		if errs = append(errs, err); len(errs) == 100 {
			return nil, fmt.Errorf("find %d free ports of %q: %w", n, host, errors.Join(errs[:3]...))
		}
	}
	return ports, nil
}

// Addresses returns n addresses, each a host and a port, on one host of their own.
func Addresses(n int) ([]string, error) {
	host := Own()
	ports, err := Free(host, n)
	if err != nil {
		return nil, err
	}
	all := make([]string, n)
	for i := range all {
		all[i] = Join(host, ports[i])
	}
	return all, nil
}

// Join makes host:port.
func Join(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
