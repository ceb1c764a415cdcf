package gateway

import (
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// maxStreams is how many requests one connection may have under way. An agent sends one at a time.
const maxStreams = 16

// NewServer returns the HTTP server for handler, bounded in time and header size. TLS, where wanted, is the
// listener's business.
func NewServer(handler http.Handler, timeout time.Duration, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       timeout,
		WriteTimeout:      timeout + 5*time.Second, // past the time limit of the request, so that its answer gets out
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Limit bounds how many connections ln holds at once; further ones wait in the kernel's queue.
func Limit(ln net.Listener, connections int) net.Listener {
	return netutil.LimitListener(ln, connections)
}
