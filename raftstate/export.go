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
	// Damage is what this node knows of that is wrong with the state, with ExportDamaged.
	Damage []string

	n    *Node
	cut  *cutImage
	once sync.Once
	err  error
}

// DamagedError says that a state is not exported since it is known not to be whole.
type DamagedError struct {
	Node   string
	Damage []string // one at least
}

// Error implements error.
func (e *DamagedError) Error() string {
	text := fmt.Sprintf("the state of node %s is not whole: %s", e.Node, e.Damage[0])
	if more := len(e.Damage) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// flaws are what makes the state of this node one that nobody should build on, at most maxPeerDamage.
func (n *Node) flaws() (out []string) {
	if n.probation.Load() {
		out = append(out, errProbation.Error())
	}
	if n.cfg.Repairs == nil {
		return out
	}
	for _, d := range n.cfg.Repairs.Known() {
		if d.inImage() && len(out) < maxPeerDamage {
			out = append(out, d.String())
		}
	}
	return out
}

// Export cuts the state of this node at one index. Apply stands still only while the stores are linked. Close must be
// called. A state that is known to be damaged, or that lacks what the node once acknowledged, is a *DamagedError.
func (n *Node) Export() (*Export, error) {
	if flaws := n.flaws(); len(flaws) > 0 {
		return nil, &DamagedError{n.cfg.NodeID, flaws}
	}
	e, err := n.export()
	if err != nil {
		return nil, err
	}
	if flaws := n.flaws(); len(flaws) > 0 { // found while it was cut
		return nil, errors.Join(&DamagedError{n.cfg.NodeID, flaws}, e.Close())
	}
	return e, nil
}

// ExportDamaged is Export of whatever there is: it may be all that is left.
func (n *Node) ExportDamaged() (*Export, error) {
	before := n.flaws()
	e, err := n.export()
	if err != nil {
		return nil, err
	}
	if e.Damage = n.flaws(); len(e.Damage) < len(before) {
		e.Damage = before // it was mended meanwhile: the state may be of before
	}
	return e, nil
}

func (n *Node) export() (*Export, error) {
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
