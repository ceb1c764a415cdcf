package raftstate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// When the majority of a cluster is lost for good, one node that is left can go on alone (triward cluster recover). Two steps
// make it so, both of which can be repeated after a crash: Alone appends the configuration that has this node as its only
// member to its log and applies all that the log holds, also what it does not know to be committed: that may have been
// acknowledged. Renew then makes the state that of a new cluster, as a restore does, and empties the log, so that whoever
// joins begins with an image of it.

// Left is what a stopped node holds.
type Left struct {
	Mark      meta.Mark
	Format    uint32 // of the cluster's state
	LogTime   int64  // of the mark, milliseconds since 1970
	Last      uint64 // entry of the log, applied or not
	LastTerm  uint64 // of that entry
	LastStamp int64  // stamp of the newest command in the log behind the mark; 0: there is none
	Members   []Member
	Probation bool // it lost its data and has not caught up with what was committed
	// Cut is the first entry that is given up when the damaged end of the log is cut (CutDamaged), and GivenUp how many are, as
	// far as that is known; Damage says what is damaged, "" for a log that is whole.
	Cut, GivenUp uint64
	Damage       string
}

// Unapplied is how many entries of the log the mark does not cover.
func (l *Left) Unapplied() uint64 { return l.Last - min(l.Last, l.Mark.Index) }

// Inspect tells what the node of a data directory holds, which no process uses.
func Inspect(ctx context.Context, dir string) (_ *Left, err error) {
	layout := snapshot.NewLayout(dir)
	generation, err := layout.Current()
	if err != nil {
		return nil, refused("state", err)
	}
	if generation == "" {
		return nil, fmt.Errorf("%s holds the state of no node", dir)
	}
	about, err := meta.Summarize(layout.MetaFile(generation))
	if err != nil {
		return nil, refused("metadata", err)
	}
	out := &Left{Mark: about.Mark, Format: about.Format, LogTime: about.LogTime}
	store, err := logfile.Open(filepath.Join(dir, raftDir), logfile.Options{Look: true})
	if err != nil {
		return nil, refused("log", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	held, err := store.Get([]byte(probationKey))
	if err != nil {
		return nil, refused("log", err)
	}
	out.Probation = string(held) == probationOn
	last, err := out.whole(ctx, store)
	if err != nil {
		return nil, refused("log", err)
	}
	out.Last, out.LastTerm = max(last, out.Mark.Index), out.Mark.Term
	if last > out.Mark.Index {
		var l raft.Log
		if err := store.GetLog(last, &l); err != nil {
			return nil, refused("log", err)
		}
		out.LastTerm = l.Term
	}
	config, err := lastConfiguration(store, &out.Mark, last, func(l *raft.Log) {
		if e, err := command.Decode(l.Data); err == nil {
			out.LastStamp = e.Stamp
		}
	})
	if err != nil {
		return nil, err
	}
	for _, s := range config.Servers {
		out.Members = append(out.Members, Member{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return out, nil
}

// whole returns the last entry of the log before which all are whole, and notes what is damaged.
func (l *Left) whole(ctx context.Context, store *logfile.Store) (uint64, error) {
	last, err := store.LastIndex()
	if err != nil {
		return 0, err
	}
	end := max(last, store.Reached())
	switch store.Doubt() {
	case logfile.DoubtReach:
		l.Cut, l.Damage = last+1, "up to where it had reached cannot be read"
	case logfile.DoubtLost:
		l.Cut, l.Damage = last+1, fmt.Sprintf("it ends at entry %d and had reached %d", last, store.Reached())
	}
	if err := store.Verify(ctx, l.Mark.Index+1); err != nil {
		bad, ok := logfile.DamagedIndex(err)
		if !ok {
			return 0, err
		}
		l.Cut, l.Damage, last = bad, err.Error(), bad-1
	}
	if l.Cut > 0 {
		l.GivenUp = end + 1 - l.Cut
	}
	return last, nil
}

// CutDamaged cuts the log of a data directory, which no process uses, before the first entry above the mark that is damaged.
// What this node had acknowledged from there on is lost, as Inspect says. A log that is whole stays so.
func CutDamaged(ctx context.Context, dir string) (err error) {
	left, err := Inspect(ctx, dir)
	if err != nil || left.Cut == 0 {
		return err
	}
	store, err := logfile.Open(filepath.Join(dir, raftDir), logfile.Options{Short: true})
	if err != nil {
		return refused("log", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	last, err := store.LastIndex()
	if err != nil {
		return refused("log", err)
	}
	if left.Cut <= last {
		if err := store.DeleteRange(left.Cut, last); err != nil {
			return brokenDisk("log", err)
		}
	}
	if err := store.SetReach(); err != nil {
		return brokenDisk("log", err)
	}
	return nil
}

// lastConfiguration returns the newest configuration of a log over its mark; each is told of every command behind it.
func lastConfiguration(store *logfile.Store, mark *meta.Mark, last uint64, each func(*raft.Log)) (raft.Configuration, error) {
	var config raft.Configuration
	if len(mark.Configuration) > 0 {
		config = raft.DecodeConfiguration(mark.Configuration)
	}
	for i := mark.Index + 1; i <= last; i++ {
		var l raft.Log
		if err := store.GetLog(i, &l); err != nil {
			return config, refused("log", err)
		}
		switch l.Type {
		case raft.LogConfiguration:
			config = raft.DecodeConfiguration(l.Data)
		case raft.LogCommand:
			if each != nil {
				each(&l)
			}
		}
	}
	return config, nil
}

// Alone opens the node that cfg describes without a network, as the only member of its cluster, and closes it when state and
// stores hold all of its log. It returns the last entry of that. opened is given the state as soon as there is one. The
// sinks are closed.
func Alone(ctx context.Context, cfg Config, sinks Sinks, opened func(*meta.Store)) (through uint64, err error) {
	cfg.alone = true
	_, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.NodeID))
	cfg.Transport = &Transport{Raft: trans, Caller: new(forward.Loopback).From(cfg.NodeID)}
	n, err := Open(ctx, cfg, sinks)
	if err != nil {
		return 0, err
	}
	opened(n.State())
	through = n.aloneFrom
	return through, errors.Join(n.WaitApplied(ctx, through), n.Close())
}

// makeAlone appends the configuration whose only member is this node, unless that is the newest already.
func (n *Node) makeAlone(g *guard) error {
	last, err := g.LastIndex()
	if err != nil {
		return refused("log", err)
	}
	if n.probation.Load() {
		return errProbation
	}
	mark := n.mark.Load()
	config, err := lastConfiguration(n.store, mark, last, nil)
	if err != nil {
		return err
	}
	last = max(last, mark.Index)
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(n.cfg.NodeID), Address: raft.ServerAddress(n.cfg.Advertise)}
	n.aloneFrom = last
	if len(config.Servers) == 1 && config.Servers[0].ID == self.ID && config.Servers[0].Suffrage == raft.Voter {
		return nil
	}
	term, err := g.GetUint64(keyTerm)
	if err != nil {
		return refused("log", err)
	}
	term = max(term, mark.Term) + 1 // no entry of the log is of a later one
	if err := g.SetUint64(keyTerm, term); err != nil {
		return brokenDisk("log", err)
	}
	l := &raft.Log{Index: last + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}})}
	if err := g.StoreLogs([]*raft.Log{l}); err != nil {
		return fmt.Errorf("write the configuration of the only member: %w", err)
	}
	n.aloneFrom = l.Index
	n.log.Warn("this node is the only member from now on", "index", l.Index, "term", term, "before", len(config.Servers))
	return nil
}

// Renew makes the state of a node, which no process uses and which holds the log up to the entry through at least, that of a
// new cluster whose only member is self. change edits the metadata.
func Renew(dir string, self Server, through uint64, change func(tx *meta.Tx) error) (err error) {
	layout := snapshot.NewLayout(dir)
	generation, err := layout.Current()
	if err != nil {
		return refused("state", err)
	}
	file := layout.MetaFile(generation)
	about, err := meta.Summarize(file)
	if err != nil {
		return refused("metadata", err)
	}
	if about.Mark.Index < through {
		return fmt.Errorf("the state is durable up to entry %d only, the log reaches to %d: try again", about.Mark.Index, through)
	}
	err = meta.Renew(file, change, func(m *meta.Mark) {
		m.Configuration = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
			{Suffrage: raft.Voter, ID: raft.ServerID(self.ID), Address: raft.ServerAddress(self.Addr)},
		}})
		m.ConfigurationIndex = m.Index
	})
	if err != nil {
		return err
	}
	store, err := logfile.Open(filepath.Join(dir, raftDir), logfile.Options{})
	if err != nil {
		return refused("log", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Clear(); err != nil {
		return brokenDisk("log", err)
	}
	return nil
}
