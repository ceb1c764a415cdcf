package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	callPath    = "/raftstate/v1/"
	codeHeader  = "X-Triward-Code"
	dialTimeout = 3 * time.Second
	callTimeout = 30 * time.Second // when the caller's context has no end
)

// callServer answers calls over HTTP.
type callServer struct{ h Handler }

// ServeHTTP implements http.Handler.
func (s callServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from := PeerID(r.TLS)
	if from == "" {
		http.Error(w, "client certificate of a node is needed", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		w.Header().Set(codeHeader, "invalid")
		http.Error(w, fmt.Sprintf("body: %v (at most %d bytes)", err, MaxBody), http.StatusBadRequest)
		return
	}
	answer, err := s.h.ServeCall(r.Context(), from, r.PathValue("method"), body)
	if err != nil {
		var remote *RemoteError
		_ = errors.As(asRemote(err), &remote)
		w.Header().Set(codeHeader, remote.Code)
		http.Error(w, remote.Message, http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(answer) // a peer that is gone learns nothing, as with any lost answer
}

// Client calls other nodes over HTTP/2, with few connections to each.
type Client struct{ transport *http.Transport }

// errDial marks failures from before a request was sent.
type errDial struct{ err error }

func (e *errDial) Error() string { return e.err.Error() }
func (e *errDial) Unwrap() error { return e.err }

// NewClient returns a client that finds the address (host:port) of a node with resolve.
func NewClient(id *Identity, resolve func(node string) (string, error)) *Client {
	dialTLS := func(ctx context.Context, _, hostport string) (net.Conn, error) {
		node, _, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, &errDial{err}
		}
		addr, err := resolve(node)
		if err != nil {
			return nil, &errDial{err}
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		conn, err := dial(ctx, id, node, addr, protoHTTP)
		if err != nil {
			return nil, &errDial{err}
		}
		return conn, nil
	}
	return &Client{transport: &http.Transport{
		DialTLSContext:     dialTLS,
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
		IdleConnTimeout:    2 * time.Minute,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}}
}

// Transport returns the transport for requests of the appliance to peers: https://<node id>/path.
func (c *Client) Transport() http.RoundTripper { return c.transport }

// Call implements Caller.
func (c *Client) Call(ctx context.Context, peer, method string, body []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+peer+callPath+method, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call %s of node %s: %w: %w", method, peer, ErrUnreachable, err)
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		var before *errDial
		if errors.As(err, &before) {
			return nil, fmt.Errorf("call %s of node %s: %w: %w", method, peer, ErrUnreachable, err)
		}
		return nil, fmt.Errorf("call %s of node %s: %w", method, peer, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("call %s of node %s: read answer: %w", method, peer, err)
	case len(answer) > MaxBody:
		return nil, fmt.Errorf("call %s of node %s: answer exceeds %d bytes", method, peer, MaxBody)
	case resp.StatusCode == http.StatusOK:
		return answer, nil
	}
	code := resp.Header.Get(codeHeader)
	if code == "" {
		code = CodeInternal
	}
	return nil, &RemoteError{Code: code, Message: strings.TrimSpace(string(answer))}
}

// Close closes idle connections; calls under way end by their contexts.
func (c *Client) Close() { c.transport.CloseIdleConnections() }
