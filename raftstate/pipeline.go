package raftstate

import (
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// errRefused is why a pipeline takes no more entries.
var errRefused = errors.New("the peer refused entries, or answers of them were lost")

// pipeline goes on reading answers when raft has stopped. hashicorp/raft 1.7.3 reads none behind one that refuses entries, and the
// pipeline of its NetworkTransport then waits for ever to hand out the next one, AppendEntries for the pipeline to read
// another, and so the goroutine that would close the pipeline: the peer gets heartbeats and no entries until another node leads.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	refused chan struct{} // closed when raft reads no more
	closed  chan struct{}
	close   func()
	wg      sync.WaitGroup
}

// openPipeline returns p without that fault. Close ends its goroutine.
func openPipeline(p raft.AppendPipeline) *pipeline {
	q := &pipeline{AppendPipeline: p, answers: make(chan raft.AppendFuture), refused: make(chan struct{}), closed: make(chan struct{})}
	q.close = sync.OnceFunc(func() { close(q.closed) })
	q.wg.Go(q.read)
	return q
}

// read hands out the answers up to the first after which raft reads none, and throws away what comes behind it.
func (p *pipeline) read() {
	for read := true; ; {
		var f raft.AppendFuture
		select {
		case f = <-p.AppendPipeline.Consumer():
		case <-p.closed:
			return
		}
		if !read {
			continue
		}
		resp := f.Response()
		read = resp.Success && resp.Term <= f.Request().Term
		select {
		case p.answers <- f:
		case <-p.closed:
			return
		}
		if !read {
			close(p.refused)
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	select {
	case <-p.refused:
		return nil, errRefused
	default:
		return p.AppendPipeline.AppendEntries(args, resp)
	}
}

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.close()
	err := p.AppendPipeline.Close()
	p.wg.Wait()
	return err
}
