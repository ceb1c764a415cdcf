package raftstate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/triward/triward/raftstate/snapshot"
)

// inUse returns the generation in use, "" when this node has no state yet. A pointer that leads nowhere, or is gone, is
// damage: what it does not name would be removed as left over.
func (n *Node) inUse() (string, error) {
	generation, err := n.layout.Current()
	if err != nil {
		return "", err
	}
	whole, err := n.layout.Whole()
	if err != nil || slices.Contains(whole, generation) {
		return generation, err
	}
	if n.hasRun || len(whole) > 0 {
		return "", fmt.Errorf("%s names generation %q, which has no metadata; %q have: %w", placePointer, generation, whole, snapshot.ErrCurrent)
	}
	return generation, nil
}

// storesAreThere finds stores that are gone as a whole, which would be opened as empty ones.
func (n *Node) storesAreThere() error {
	if n.mark.Load().Index == 0 {
		return nil
	}
	for kind, part := range map[string]string{snapshot.KindMetrics: partMetrics, snapshot.KindLogs: partLogs} {
		dir := n.layout.Dir(kind, n.generation)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return refused(part, err)
		}
		if len(entries) == 0 {
			return damaged(part, fmt.Errorf("%s is empty or gone while the state is there", dir))
		}
	}
	return nil
}

func (n *Node) useGeneration(name string) {
	n.generation = name
	n.inUseName.Store(&name)
}

// InUse reports whether dir is, or lies in, a directory of a store that is in use now.
func (n *Node) InUse(dir string) bool {
	name := n.inUseName.Load()
	return name != nil && slices.Contains(strings.Split(filepath.ToSlash(dir), "/"), *name)
}
