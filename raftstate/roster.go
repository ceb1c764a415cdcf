package raftstate

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/hashicorp/raft"
)

// rosterFile keeps in the data directory whom this node last knew as members, so that a node whose state cannot be
// opened knows whom to ask for another one. That it is there says that a node has run on the directory. It decides
// nothing about votes: raft goes by the configurations of its log and of its marks.
const rosterFile = "MEMBERS"

// RosterFile is its name, for whoever empties a data directory for another node.
const RosterFile = rosterFile

const rosterVersion = 1

type rosterMember struct {
	Server
	Voter bool `json:"voter"`
}

type rosterDoc struct {
	Version int            `json:"version"`
	Members []rosterMember `json:"members"`
	CRC     uint32         `json:"crc32c"` // of the members as they are encoded
}

func rosterSum(members []rosterMember) (uint32, error) {
	body, err := json.Marshal(members)
	if err != nil {
		return 0, fmt.Errorf("encode members: %w", err)
	}
	return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)), nil
}

// readRoster returns the members last written; none, and no error, when there is no file.
func readRoster(dir string) ([]rosterMember, error) {
	path := filepath.Join(dir, rosterFile)
	body, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	var doc rosterDoc
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("file %s: %w", path, err)
	}
	sum, err := rosterSum(doc.Members)
	if err != nil {
		return nil, err
	}
	if doc.Version != rosterVersion || doc.CRC != sum {
		return nil, fmt.Errorf("file %s of version %d is not what was written", path, doc.Version)
	}
	return doc.Members, nil
}

// WasMember reports whether the node whose data directory is dir last knew the node id as a member.
func WasMember(dir, id string) bool {
	members, err := readRoster(dir)
	return err == nil && slices.ContainsFunc(members, func(m rosterMember) bool { return m.ID == id })
}

// writeRoster replaces the file, durably.
func writeRoster(dir string, members []rosterMember) error {
	sum, err := rosterSum(members)
	if err != nil {
		return err
	}
	body, err := json.Marshal(rosterDoc{Version: rosterVersion, Members: members, CRC: sum})
	if err != nil {
		return fmt.Errorf("encode members: %w", err)
	}
	path := filepath.Join(dir, rosterFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write members: %w", err)
	}
	_, err = f.Write(append(body, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write members: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write members: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write members: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// noteMembers writes down who is a member when that has changed. It fails for want of room, and is tried again.
func (n *Node) noteMembers() {
	var now []rosterMember
	for _, s := range n.servers() {
		now = append(now, rosterMember{Server{ID: string(s.ID), Addr: string(s.Address)}, s.Suffrage == raft.Voter})
	}
	n.rosterMu.Lock()
	defer n.rosterMu.Unlock()
	if len(now) == 0 || reflect.DeepEqual(now, n.roster) {
		return
	}
	if err := writeRoster(n.cfg.DataDir, now); err != nil {
		n.log.Warn("the members are not written down beside the log", "err", err)
		return
	}
	n.roster = now
	if n.rosterSpoilt {
		n.rosterSpoilt = false
		n.noteMended(rosterFile)
	}
}

// lastMembers is whom this node knew as members when it was written down last.
func (n *Node) lastMembers() []rosterMember {
	n.rosterMu.Lock()
	defer n.rosterMu.Unlock()
	return n.roster
}

// loadRoster reads the file at the start. Damage of it costs nothing while the state is whole.
func (n *Node) loadRoster() {
	members, err := readRoster(n.cfg.DataDir)
	if err != nil {
		n.log.Warn("who the members were is not known", "err", err)
		n.noteDamaged(rosterFile, err)
	}
	n.rosterMu.Lock()
	defer n.rosterMu.Unlock()
	n.rosterSpoilt = err != nil
	n.roster = members
	n.hasRun = members != nil || err != nil
}
