package raftstate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// Export is the state of this node at one index, on disk as hard links, ready to be streamed into a backup. It holds
// the space of files that the stores have replaced since, until Close.
type Export struct {
	About meta.Summary

	n    *Node
	cut  *cutImage
	once sync.Once
	err  error
}

// Export cuts the state of this node at one index. Apply stands still only while the stores are linked. Close must be
// called.
func (n *Node) Export() (*Export, error) {
	n.images.mu.Lock()
	n.images.number++
	id := fmt.Sprint(n.images.number)
	n.images.mu.Unlock()
	c, err := n.cut(id)
	if err != nil {
		return nil, fmt.Errorf("cut state: %w", err)
	}
	e := &Export{n: n, cut: c}
	e.About, err = meta.Summarize(filepath.Join(n.layout.ImageDir(snapshot.KindMeta, id), metaName))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cut state: %w", err), e.Close())
	}
	return e, nil
}

// Size is the exact length in bytes of what WriteTo writes.
func (e *Export) Size() int64 { return e.cut.image.Size() }

// WriteTo streams the image, a tar that RestoreImage takes.
func (e *Export) WriteTo(ctx context.Context, w io.Writer) error { return e.cut.image.WriteTo(ctx, w) }

// Header is the header of the image, Members its files, for whoever stores them one by one.
func (e *Export) Header() snapshot.Header { return e.cut.image.Header }

// Members lists the files of the image as they lie on disk until Close.
func (e *Export) Members() []snapshot.Member { return e.cut.image.Members() }

// Close removes the image. It is idempotent.
func (e *Export) Close() error {
	e.once.Do(func() { e.err = e.n.layout.RemoveImage(e.cut.id) })
	return e.err
}
