package syslog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
)

const (
	// maxFrame is how long a message may be that says its length; a longer one ends the connection.
	maxFrame = 1 << 20
	// keptOfFrame is how much is kept of a message: a little more than a line may have, so that whoever cuts it says so.
	keptOfFrame = wire.MaxLine + 1024
	// frameTimeout is how long a connection may be within a message, and within the handshake of TLS.
	frameTimeout = time.Minute
	keepBuffer   = 64 << 10 // of a connection, from one message to the next
)

// accept serves connections until the listener is closed.
func (s *Server) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.opts.Log.Warn("accept a connection of syslog", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		from := addressOf(c)
		if !s.allowed(from) {
			_ = c.Close()
			s.lost("not_allowed", 1, "not among listen.syslog.allow: "+from.String())
			continue
		}
		s.mu.Lock()
		closed := s.closed
		if !closed {
			s.conns[c] = struct{}{}
		}
		s.mu.Unlock()
		if closed { // taken just before the listener was closed: nobody would close it
			_ = c.Close()
			continue
		}
		s.met.connections.Inc()
		s.receive.Go(func() {
			defer s.met.connections.Dec()
			defer func() {
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
				_ = c.Close()
			}()
			err := s.handshake(c)
			if err == nil {
				err = s.readFrames(c, from)
			}
			if err != nil && s.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) && s.warn.Allow() {
				s.opts.Log.Warn("connection of syslog is cut", "from", from, "err", err)
			}
		})
	}
}

// handshake does that of TLS. Who begins none must not hold a place.
func (s *Server) handshake(c net.Conn) error {
	secure, ok := c.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, frameTimeout)
	defer cancel()
	return secure.HandshakeContext(ctx)
}

func addressOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.IPv4Unspecified()
}

// readFrames takes the messages of one connection, in either framing of RFC 6587: with their length before them, or
// each ended by a line feed. Every message begins with a digit in the one and with '<' in the other.
func (s *Server) readFrames(c net.Conn, from netip.Addr) error {
	r := bufio.NewReaderSize(c, 16<<10)
	var buf []byte
	for {
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		first, err := r.Peek(1)
		if err != nil {
			return ended(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(frameTimeout)); err != nil {
			return err
		}
		cut := false
		if first[0] >= '1' && first[0] <= '9' {
			buf, cut, err = readCounted(r, buf[:0])
		} else {
			buf, cut, err = readLine(r, buf[:0])
		}
		if len(buf) > 0 && (err == nil || errors.Is(err, io.EOF) && (first[0] < '1' || first[0] > '9')) {
			if cut {
				s.met.cut.Inc()
			}
			if err := s.take("tcp", buf, from); err != nil {
				s.lost("queue", 1, err.Error())
				return err
			}
		}
		if err != nil {
			return ended(err)
		}
		if cap(buf) > keepBuffer {
			buf = nil
		}
	}
}

// ended passes over that the sender has ended the connection.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readCounted reads "length message". What it holds grows with what came, not with what was announced. Of a longer
// message than is kept the rest is passed over.
func readCounted(r *bufio.Reader, buf []byte) (message []byte, cut bool, err error) {
	n := 0
	for i := 0; ; i++ {
		b, err := r.ReadByte()
		switch {
		case err != nil:
			return buf, false, err
		case b == ' ':
			return readBytes(r, buf, n)
		case b < '0' || b > '9' || i == 7:
			return buf, false, fmt.Errorf("a message begins neither with '<' nor with its length (%q)", b)
		}
		if n = n*10 + int(b-'0'); n > maxFrame {
			return buf, false, fmt.Errorf("a message of more than %d bytes is announced", maxFrame)
		}
	}
}

// readBytes reads n bytes, of which it keeps those that a line may have.
func readBytes(r *bufio.Reader, buf []byte, n int) (message []byte, cut bool, err error) {
	const step = 16 << 10
	for kept := min(n, keptOfFrame); len(buf) < kept; {
		from := len(buf)
		buf = slices.Grow(buf, min(step, kept-from))[:from+min(step, kept-from)]
		if _, err := io.ReadFull(r, buf[from:]); err != nil {
			return buf[:0], false, fmt.Errorf("a message of %d bytes broke off: %w", n, err)
		}
	}
	if _, err := r.Discard(n - len(buf)); err != nil {
		return buf[:0], false, fmt.Errorf("a message of %d bytes broke off: %w", n, err)
	}
	return buf, len(buf) < n, nil
}

// readLine reads up to a line feed. Of a longer line than is kept the rest is passed over.
func readLine(r *bufio.Reader, buf []byte) (line []byte, cut bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if room := keptOfFrame - len(buf); len(part) > room {
			part, cut = part[:max(room, 0)], true
		}
		buf = append(buf, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return buf, cut, err
		}
	}
}
