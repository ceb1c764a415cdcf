package forward

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

type anyCall struct{}

func (anyCall) ServeCall(context.Context, string, string, []byte) ([]byte, error) {
	return []byte("served"), nil
}

// What a node answers before it knows who is a member is refused to one that turns out to be none.
func TestRequestsWaitUntilMembersAreKnown(t *testing.T) {
	ca := newCA(t)
	server, peer := ca.identity(t, "n1"), ca.identity(t, "n2")
	var open atomic.Bool
	asked := make(chan struct{}, 1)
	server.Verify = func(string, *x509.Certificate) error {
		if open.Load() {
			return fmt.Errorf("%w: it was removed", ErrEnded)
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		return ErrUnready
	}
	l, err := Listen("127.0.0.1:0", server, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	l.Serve(anyCall{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	client := NewClient(peer, func(string) (string, error) { return l.Addr().String(), nil })
	t.Cleanup(client.Close)
	get := func(path string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://n1"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Transport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if why, ended := Ended(resp); ended {
			return resp, why
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	if resp, body := get(RepairPath + "state"); resp.StatusCode != http.StatusOK || body != RepairPath+"state" {
		t.Errorf("a page for repairs: %s %q", resp.Status, body)
	}
	var remote *RemoteError
	if answer, err := client.Call(t.Context(), "n1", "status", nil); !errors.As(err, &remote) || remote.Code != CodeStarting {
		t.Errorf("a call: %q, %v", answer, err)
	}
	for len(asked) > 0 {
		<-asked
	}
	go func() { // it opens while the request waits
		<-asked
		<-asked
		open.Store(true)
	}()
	if resp, body := get("/ring"); resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "removed") {
		t.Errorf("a page: %s %q", resp.Status, body)
	}
}
