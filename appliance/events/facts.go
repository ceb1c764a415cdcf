package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
)

const (
	askEvery    = 10 * time.Second // other nodes are asked how they are
	agentsEvery = 5 * time.Second
)

// fact is what was told last of something; a fact that is as it should be has no record.
func (s *Service) fact(key string) (value string, mod uint64) {
	v, ok := s.cfg.Meta.Get(Bucket, prefixFact+key)
	if !ok {
		return "", 0
	}
	return string(v.Data), v.ModIndex
}

// turn changes a fact and writes down what is to be told of it, both or none. Another leader that did so first is no
// error.
func (s *Service) turn(ctx context.Context, key, value string, mod uint64, events ...Event) error {
	op := auth.Op{Bucket: Bucket, Key: prefixFact + key, Value: []byte(value)}
	if value == "" {
		op = auth.Op{Bucket: Bucket, Key: prefixFact + key, Delete: true}
	}
	txn := auth.Txn{Compares: []auth.Compare{{Bucket: Bucket, Key: prefixFact + key, ModIndex: mod}}, Ops: []auth.Op{op}}
	for i := range events {
		// The name need not be known beforehand: the comparison keeps it from being told twice.
		events[i].ID = fmt.Sprintf("%s/%s/%d/%d/%d", events[i].Kind, key, s.cfg.Meta.LogTime(), mod, i)
		txn.Ops = append(txn.Ops, s.out(events[i]))
	}
	if _, err := s.cfg.Meta.Commit(ctx, txn); err != nil && !errors.Is(err, auth.ErrConflict) {
		return fmt.Errorf("change what is known of %s: %w", key, err)
	}
	return nil
}

// look compares the cluster with what was told of it.
func (s *Service) look(ctx context.Context) error {
	if time.Since(s.askedAt) < askEvery && time.Since(s.agentsAt) < agentsEvery {
		return nil
	}
	var errs []error
	if time.Since(s.agentsAt) >= agentsEvery {
		s.agentsAt = time.Now()
		errs = append(errs, s.lookAtAgents(ctx))
	}
	if time.Since(s.askedAt) >= askEvery {
		c, err := s.cfg.Cluster(ctx)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := s.lookAtCluster(ctx, &c); err != nil {
			return errors.Join(append(errs, err)...)
		}
		s.askedAt = time.Now()
	}
	return errors.Join(errs...)
}

type leaderFact struct {
	Node string `json:"node"`
	Term uint64 `json:"term"`
}

func (s *Service) lookAtCluster(ctx context.Context, c *Cluster) error {
	errs := []error{s.lookAtLeader(ctx, c), s.lookAtMembers(ctx, c), s.lookAtClock(ctx, c)}
	for i := range c.Nodes {
		n := &c.Nodes[i]
		errs = append(errs, s.lookAtReach(ctx, n))
		if n.Known {
			errs = append(errs, s.lookAtDisk(ctx, n), s.lookAtCertificate(ctx, n))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) lookAtLeader(ctx context.Context, c *Cluster) error {
	held, mod := s.fact("leader")
	var was leaderFact
	_ = json.Unmarshal([]byte(held), &was) // none: as if nobody had led before
	now := leaderFact{c.Leader, c.Term}
	if now == was || c.Leader != s.cfg.Node {
		return nil
	}
	value, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode leader: %w", err)
	}
	e := Event{
		Kind: "leader_changed", Host: c.Leader, Severity: wire.SeverityNotice, Text: fmt.Sprintf("node %s leads since term %d", c.Leader, c.Term),
		Tags: map[string]string{"term": fmt.Sprint(c.Term), "before": was.Node},
	}
	switch {
	case was.Node == c.Leader:
		e.Text += ", and led before"
	case was.Node != "":
		e.Text += "; before it was " + was.Node
	default:
		e.Severity = wire.SeverityInfo
	}
	return s.turn(ctx, "leader", string(value), mod, e)
}

func (s *Service) lookAtMembers(ctx context.Context, c *Cluster) error {
	var ids []string
	for i := range c.Nodes {
		ids = append(ids, c.Nodes[i].ID)
	}
	slices.Sort(ids)
	held, mod := s.fact("members")
	now := strings.Join(ids, ",")
	if now == held || now == "" {
		return nil
	}
	var events []Event
	was := strings.Split(held, ",")
	for _, id := range ids {
		if !slices.Contains(was, id) {
			events = append(events, Event{Kind: "node_joined", Host: id, Severity: wire.SeverityNotice, Text: "node " + id + " is a member of the cluster"})
		}
	}
	for _, id := range was {
		if id != "" && !slices.Contains(ids, id) {
			events = append(events, Event{Kind: "node_removed", Host: id, Severity: wire.SeverityWarning, Text: "node " + id + " is no member of the cluster any more"})
		}
	}
	return s.turn(ctx, "members", now, mod, events...)
}

func (s *Service) lookAtClock(ctx context.Context, c *Cluster) error {
	held, mod := s.fact("clock")
	switch {
	case c.Suspect != "" && held == "":
		return s.turn(ctx, "clock", s.cfg.Node, mod, Event{
			Kind: "clock_disagreement", Host: s.cfg.Node, Severity: wire.SeverityWarning,
			Text: "the clock of node " + s.cfg.Node + " disagrees with those of the others: " + c.Suspect,
		})
	case c.Suspect == "" && held != "":
		return s.turn(ctx, "clock", "", mod, Event{
			Kind: "clock_agreement", Host: held, Severity: wire.SeverityInfo, Text: "the clocks of the nodes agree again",
		})
	}
	return nil
}

func (s *Service) lookAtReach(ctx context.Context, n *Node) error {
	key := "node/" + n.ID + "/lost"
	held, mod := s.fact(key)
	switch {
	case n.Lost && n.LostMs >= nodeLost && held == "":
		return s.turn(ctx, key, fmt.Sprint(s.cfg.Meta.LogTime()-n.LostMs), mod, Event{
			Kind: "node_lost", Host: n.ID, Severity: wire.SeverityCritical, Text: "node " + n.ID + " does not answer any more",
		})
	case !n.Lost && held != "":
		return s.turn(ctx, key, "", mod, Event{
			Kind: "node_back", Host: n.ID, Severity: wire.SeverityNotice, Text: "node " + n.ID + " answers again" + after(held, s.cfg.Meta.LogTime()),
		})
	}
	return nil
}

// after says how long something lasted that began at a time written as a fact.
func after(since string, now int64) string {
	var ms int64
	if _, err := fmt.Sscan(since, &ms); err != nil || ms <= 0 || ms > now {
		return ""
	}
	return ", after " + (time.Duration(now-ms) * time.Millisecond).Round(time.Second).String()
}

func (s *Service) lookAtDisk(ctx context.Context, n *Node) error {
	if n.Total <= 0 {
		return nil
	}
	key := "node/" + n.ID + "/disk"
	held, mod := s.fact(key)
	used := 100 - 100*float64(n.Free)/float64(n.Total)
	level := ""
	switch {
	case n.Full != "", used >= diskFull, held == "full" && used >= diskFull-diskGrain:
		level = "full"
	case used >= diskWarn, held != "" && used >= diskWarn-diskGrain:
		level = "warn"
	}
	if level == held {
		return nil
	}
	percent := percentText(used)
	e := Event{Host: n.ID, Tags: map[string]string{"percent": percent, "free_bytes": fmt.Sprint(n.Free), "level": level}}
	switch level {
	case "full":
		e.Kind, e.Severity, e.Text = "node_disk_full", wire.SeverityCritical, fmt.Sprintf("the disk of node %s is %s %% full", n.ID, percent)
		if n.Full != "" {
			e.Text += ": " + n.Full
		}
	case "warn":
		e.Kind, e.Severity, e.Text = "node_disk_filling", wire.SeverityWarning, fmt.Sprintf("the disk of node %s is %s %% full", n.ID, percent)
	default:
		e.Kind, e.Severity, e.Text = "node_disk_room", wire.SeverityInfo, fmt.Sprintf("the disk of node %s has room again: %s %% full", n.ID, percent)
	}
	return s.turn(ctx, key, level, mod, e)
}

func (s *Service) lookAtCertificate(ctx context.Context, n *Node) error {
	if n.CertEnd <= 0 {
		return nil
	}
	key := "node/" + n.ID + "/certificate"
	held, mod := s.fact(key)
	ending := n.CertEnd-s.cfg.Meta.LogTime() < certEnds
	switch {
	case ending && held == "":
		return s.turn(ctx, key, fmt.Sprint(n.CertEnd), mod, Event{
			Kind: "certificate_ending", Host: n.ID, Severity: wire.SeverityWarning,
			Text: "the certificate of node " + n.ID + " ends at " + time.UnixMilli(n.CertEnd).UTC().Format(time.RFC3339) + " and was not renewed",
		})
	case !ending && held != "":
		return s.turn(ctx, key, "", mod, Event{
			Kind: "certificate_renewed", Host: n.ID, Severity: wire.SeverityInfo, Text: "the certificate of node " + n.ID + " was renewed",
		})
	}
	return nil
}

// lookAtAgents tells of agents that fell silent and of those that came back. Who has just begun to lead waits: after an
// outage of the cluster all agents were silent for its length.
func (s *Service) lookAtAgents(ctx context.Context) error {
	now := s.cfg.Meta.LogTime()
	patient := time.Since(s.ledSince).Milliseconds() >= agentLost
	there := make(map[string]bool)
	changes := 0
	for _, a := range s.cfg.Agents() {
		there[a.ID] = true
		if changes >= perTick {
			continue
		}
		key := "agent/" + a.ID
		held, mod := s.fact(key)
		e := Event{Host: a.Host, Agent: a.ID}
		value := ""
		switch silent := now-a.LastSeen > agentLost; {
		case silent && held == "" && patient && a.LastSeen > 0:
			value = fmt.Sprint(a.LastSeen)
			e.Kind, e.Severity, e.Text = "agent_silent", wire.SeverityWarning, "nothing is heard of the agent of "+a.Host+" any more"
		case !silent && held != "":
			e.Kind, e.Severity, e.Text = "agent_heard", wire.SeverityInfo, "the agent of "+a.Host+" is heard again"+after(held, now)
		default:
			continue
		}
		changes++
		if err := s.turn(ctx, key, value, mod, e); err != nil {
			return err
		}
	}
	return s.forgetAgents(ctx, there)
}

// forgetAgents drops what is known of agents that are no more.
func (s *Service) forgetAgents(ctx context.Context, there map[string]bool) error {
	var ops []auth.Op
	s.cfg.Meta.Scan(Bucket, prefixFact+"agent/", func(key string, _ auth.Value) bool {
		if !there[strings.TrimPrefix(key, prefixFact+"agent/")] {
			ops = append(ops, auth.Op{Delete: true, Bucket: Bucket, Key: key})
		}
		return len(ops) < perTick
	})
	if len(ops) == 0 {
		return nil
	}
	if _, err := s.cfg.Meta.Commit(ctx, auth.Txn{Ops: ops}); err != nil {
		return fmt.Errorf("forget silent agents that are gone: %w", err)
	}
	return nil
}
