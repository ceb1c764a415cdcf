package raftstate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

const (
	askPatience = 5 * time.Second
	takeIdle    = time.Minute // a transfer that brings nothing for so long is given up
	// wholePatience is how long another node may compare the days concerned with what was accepted before it gives.
	wholePatience = 15 * time.Minute
)

// taken is an image of another node that is unpacked in a generation of its own and not in use yet.
type taken struct {
	generation string
	from       string
	mark       meta.Mark
	bytes      int64
}

// otherMembers is whom a repair may ask.
func (n *Node) otherMembers() (others []rosterMember) {
	for _, m := range n.lastMembers() {
		if m.ID != n.cfg.NodeID {
			others = append(others, m)
		}
	}
	return others
}

// askPeers tells the other members what is damaged here and asks how they are themselves.
func (n *Node) askPeers(ctx context.Context, own PeerRepair) map[string]PeerRepair {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	said := make(map[string]PeerRepair)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range n.otherMembers() {
		wg.Go(func() {
			var p PeerRepair
			resp, err := n.postPeer(ctx, m.ID, repairStatePath, own)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, maxRepairBody)).Decode(&p) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			said[m.ID] = p
		})
	}
	wg.Wait()
	return said
}

func (n *Node) postPeer(ctx context.Context, peer, path string, body any) (*http.Response, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+peer+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if t := n.cfg.Transport; t != nil {
		if t.Pages == nil {
			return nil, errors.New("peers serve no pages")
		}
		return t.Pages.RoundTrip(req)
	}
	return n.client.Transport().RoundTrip(req)
}

// givers lists whom to take an image from: members that say that they are whole, those last whose state was taken and
// did not help, then one that leads. There is one at least without an error.
func (n *Node) givers(ctx context.Context) ([]string, PeerRepair, error) {
	own := n.peerRepair()
	said := n.askPeers(ctx, own)
	chosen := n.cfg.Repairs.From()
	if chosen == "" {
		if err := sharedDamage(n.cfg.NodeID, n.lastMembers(), own.Damage, said); err != nil {
			n.refuse(err)
			return nil, own, err
		}
		if silent := n.silentVoters(said); len(silent) > 0 && n.askedFor() < silencePatience {
			return nil, own, fmt.Errorf("%w: %s may be damaged in the same place and do not answer yet", ErrNoGiver, strings.Join(silent, ", "))
		}
	}
	var givers []PeerRepair
	var why []error
	for _, m := range n.otherMembers() {
		p, answered := said[m.ID]
		at := slices.IndexFunc(p.Damage, Damage.inImage)
		switch {
		case chosen != "" && m.ID != chosen:
		case !answered:
			why = append(why, fmt.Errorf("node %s does not answer", m.ID))
		case !p.Ready:
			why = append(why, fmt.Errorf("node %s is not ready", m.ID))
		case p.Probation:
			why = append(why, fmt.Errorf("node %s has not caught up", m.ID))
		case at >= 0:
			why = append(why, fmt.Errorf("node %s is damaged itself: %s", m.ID, p.Damage[at].Place))
		default:
			p.Node = m.ID
			givers = append(givers, p)
		}
	}
	if len(givers) == 0 {
		if chosen != "" && len(why) == 0 {
			why = append(why, fmt.Errorf("node %s is no member", chosen))
		}
		err := fmt.Errorf("%w: %w", ErrNoGiver, errors.Join(why...))
		n.refuse(err)
		return nil, own, err
	}
	tried := n.cfg.Repairs.Tried()
	last := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	slices.SortFunc(givers, func(x, y PeerRepair) int {
		return cmp.Or(cmp.Compare(last(slices.Contains(tried, x.Node)), last(slices.Contains(tried, y.Node))),
			cmp.Compare(last(x.Leader), last(y.Leader)), cmp.Compare(y.Applied, x.Applied))
	})
	n.refusal.Store(nil)
	own.Chosen = chosen != ""
	names := make([]string, len(givers))
	for i := range givers {
		names[i] = givers[i].Node
	}
	return names, own, nil
}

// silencePatience is how long a repair waits for voters that do not answer: nodes that are damaged together come up
// together. Later they are taken for down, which is no reason to stay damaged.
const silencePatience = 20 * time.Second

// silentVoters are those that did not answer, when they could make a majority of damaged ones with this node.
func (n *Node) silentVoters(said map[string]PeerRepair) (silent []string) {
	voters := 0
	for _, m := range n.lastMembers() {
		if !m.Voter {
			continue
		}
		voters++
		if _, ok := said[m.ID]; !ok && m.ID != n.cfg.NodeID {
			silent = append(silent, "node "+m.ID)
		}
	}
	if 1+len(silent) <= voters/2 {
		return nil
	}
	return silent
}

// askedFor is for how long this repair has been asking.
func (n *Node) askedFor() time.Duration {
	now := time.Now()
	n.askedSince.CompareAndSwap(nil, &now)
	return now.Sub(*n.askedSince.Load())
}

func (n *Node) refuse(err error) {
	why := err.Error()
	n.refusal.Store(&why)
}

// take fetches an image into a generation of its own, of the first member that gives one. The state in use is not touched.
func (n *Node) take(ctx context.Context) (*taken, error) {
	peers, own, err := n.givers(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, peer := range peers {
		t, err := n.takeFrom(ctx, peer, &own)
		if err == nil {
			return t, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || errors.Is(err, unix.ENOSPC) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (n *Node) takeFrom(ctx context.Context, peer string, own *PeerRepair) (_ *taken, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// It compares what it holds first; that of all it has, as a chosen one, has no end that is known here.
	idle := time.AfterFunc(wholePatience, func() { cancel(fmt.Errorf("node %s sends nothing", peer)) })
	defer idle.Stop()
	n.cfg.Repairs.Doing("asking node "+peer+" for its state", 0, 0)
	if own.Chosen {
		idle.Stop()
	}
	resp, err := n.postPeer(ctx, peer, repairImagePath, own)
	if err != nil {
		return nil, fmt.Errorf("image of node %s: %w", peer, cmp.Or(context.Cause(ctx), err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what there is of it
		return nil, fmt.Errorf("image of node %s: %s: %s", peer, resp.Status, bytes.TrimSpace(said))
	}
	idle.Reset(takeIdle)
	if err := n.roomForImage(resp.ContentLength); err != nil {
		return nil, err
	}
	generation, err := n.layout.Next()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.layout.Remove(generation))
		}
	}()
	body := &progress{r: resp.Body, n: n, peer: peer, total: resp.ContentLength, idle: idle}
	header, err := snapshot.Unpack(ctx, body, n.generationDirs(generation), n.cfg.format)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return nil, fmt.Errorf("image of node %s: %w", peer, err)
	}
	mark, err := n.readMark(n.layout.MetaFile(generation))
	if err == nil && (mark.Index != header.Index || mark.Term != header.Term) {
		err = fmt.Errorf("metadata is of entry %d, the image is of entry %d: %w", mark.Index, header.Index, snapshot.ErrImage)
	}
	if err != nil {
		return nil, fmt.Errorf("image of node %s: %w", peer, err)
	}
	return &taken{generation: generation, from: peer, mark: mark, bytes: body.done}, nil
}

func (n *Node) generationDirs(generation string) map[string]string {
	dirs := make(map[string]string)
	for _, kind := range []string{snapshot.KindMetrics, snapshot.KindLogs, snapshot.KindMeta} {
		dirs[kind] = n.layout.Dir(kind, generation)
	}
	return dirs
}

// roomForImage refuses what does not fit. What was set aside before goes first.
func (n *Node) roomForImage(size int64) error {
	need := size + max(0, n.cfg.DiskReserve)
	if n.cfg.DiskReserve == 0 {
		need += 192 << 20
	}
	free, err := n.free()
	if err != nil {
		return err
	}
	if free < need {
		if err := n.layout.DropAside(); err != nil {
			n.log.Warn("remove what was set aside", "err", err)
		}
		if free, err = n.free(); err != nil {
			return err
		}
	}
	if free < need {
		return fmt.Errorf("%s has %d MiB left, a repair needs %d MiB: %w", n.cfg.DataDir, free>>20, need>>20, unix.ENOSPC)
	}
	return nil
}

func (n *Node) free() (int64, error) {
	if n.cfg.FreeBytes != nil {
		return n.cfg.FreeBytes(n.cfg.DataDir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(n.cfg.DataDir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", n.cfg.DataDir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// progress tells how far a transfer is and puts off its end as long as it goes on.
type progress struct {
	r           io.Reader
	n           *Node
	peer        string
	done, total int64
	told        int64
	idle        *time.Timer
}

// Read implements io.Reader.
func (p *progress) Read(b []byte) (int, error) {
	m, err := p.r.Read(b)
	if m > 0 {
		p.done += int64(m)
		p.idle.Reset(takeIdle)
		if p.done-p.told >= 4<<20 || p.done == p.total {
			p.told = p.done
			p.n.cfg.Repairs.Doing("taking the state of node "+p.peer, p.done, p.total)
		}
	}
	return m, err
}
