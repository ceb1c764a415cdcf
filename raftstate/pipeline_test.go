package raftstate

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// pipeLayer connects a transport with another one that listens.
type pipeLayer struct{ conns chan net.Conn }

func (l *pipeLayer) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	a, b := net.Pipe()
	l.conns <- b
	return a, nil
}

func (l *pipeLayer) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *pipeLayer) Close() error   { close(l.conns); return nil }
func (l *pipeLayer) Addr() net.Addr { return peerAddr("pipe") }

// A follower that refuses entries while more of them are on the way must be sent entries again. The bubble would tell of a deadlock.
func TestPipelineOfRefusedEntriesEnds(t *testing.T) {
	for name, answer := range map[string]func(*raft.AppendEntriesResponse){
		"refused":    func(r *raft.AppendEntriesResponse) { r.Success = false },
		"later term": func(r *raft.AppendEntriesResponse) { r.Success, r.Term = true, 9 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				layer := &pipeLayer{conns: make(chan net.Conn, 4)}
				cfg := &raft.NetworkTransportConfig{Stream: layer, MaxPool: 3, MaxRPCsInFlight: 2, Timeout: 10 * time.Second}
				trans := raft.NewNetworkTransportWithConfig(cfg)
				defer func() { _ = trans.Close() }()
				done := make(chan struct{})
				defer close(done)
				go func() { // the follower
					for {
						select {
						case rpc := <-trans.Consumer():
							resp := &raft.AppendEntriesResponse{Term: 1}
							answer(resp)
							rpc.Respond(resp, nil)
						case <-done:
							return
						}
					}
				}()
				q := &quietTransport{Transport: trans, hangs: func() bool { return false }, confirms: &confirmations{}}
				pipe, err := q.AppendEntriesPipeline("b", "b")
				if err != nil {
					t.Fatal(err)
				}
				go func() { // raft reads one answer that refuses, and no more
					<-pipe.Consumer()
				}()
				for i := 0; ; i++ {
					_, err = pipe.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse))
					if errors.Is(err, errRefused) {
						break
					}
					if err != nil || i > 100 {
						t.Fatalf("request %d: %v", i, err)
					}
				}
				if err := pipe.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
