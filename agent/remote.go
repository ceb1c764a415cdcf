package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/sender"
)

// remoteFile is where the last good configuration of the cluster lies in the data directory, so that the agent starts
// with it when no node can be reached.
const remoteFile = "remote.json"

// maxRemote bounds that file: the text, escaped, and what is said of it.
const maxRemote = 6*config.MaxGroup + 4096

// States of a ConfigReport.
const (
	configNone    = "none"    // agent.yaml alone, and the cluster has nothing else
	configApplied = "applied" // what the cluster wanted last is in effect, but for what Own names
	configRefused = "refused" // what the cluster wanted last is not in effect; Error says why
	configWaiting = "waiting" // it will be, once what Error says is over
	configOff     = "off"     // agent.yaml lets the cluster set nothing
)

// maxReason bounds an error in a report: a heartbeat has a bound too.
const maxReason = 2 << 10

// ConfigReport says what of the cluster's configuration is in effect.
type ConfigReport struct {
	State string `json:"state"`
	// Group, Version and Hash are of the configuration in effect; Version is 0 for agent.yaml alone.
	Group   string `json:"group,omitempty"`
	Version uint64 `json:"version"`
	Hash    string `json:"hash,omitempty"`
	// WantedVersion and WantedHash are of the one that is refused or waits, and Error says why.
	WantedVersion uint64 `json:"wanted_version,omitempty"`
	WantedHash    string `json:"wanted_hash,omitempty"`
	Error         string `json:"error,omitempty"`
	// Own are the keys that the group sets otherwise and agent.yaml keeps.
	Own []string `json:"own,omitempty"`
}

// remote is the configuration from the cluster. Safe for concurrent use.
type remote struct {
	news chan sender.ConfigNotice // the newest notice

	mu  sync.Mutex
	now ConfigReport
}

func newRemote() *remote {
	return &remote{news: make(chan sender.ConfigNotice, 1), now: ConfigReport{State: configNone}}
}

// notice takes what a heartbeat's answer says. It never waits.
func (r *remote) notice(n sender.ConfigNotice) {
	if !n.Known {
		return
	}
	select {
	case <-r.news:
	default:
	}
	select {
	case r.news <- n:
	default:
	}
}

func (r *remote) report() ConfigReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *remote) set(now ConfigReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = now
}

// settled reports whether nothing is to be done about what the cluster has: it is in effect, or was refused already.
func (r *remote) settled(n *sender.ConfigNotice) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := &r.now
	switch now.State {
	case configRefused:
		return n.Hash == now.WantedHash && n.Version == now.WantedVersion
	case configApplied:
		return n.Hash == now.Hash && n.Version == now.Version && n.Group == now.Group
	case configNone:
		return n.Version == 0
	}
	return false
}

// remembered is the configuration to start with: that of agent.yaml with what the cluster set last. What cannot be used
// of the latter is reported and left out.
func (a *Agent) remembered() (*config.Config, prometheus.Gatherer, error) {
	if !a.cfg.Remote.Enabled {
		a.remote.set(ConfigReport{State: configOff})
	} else if got, err := readRemote(a.remotePath(), a.opt.Identity.AgentID); err != nil {
		a.log.Error("the cluster's configuration that was kept cannot be read: agent.yaml alone counts until a node answers", "err", err)
	} else if got != nil {
		c, own, err := a.merge(got)
		var g prometheus.Gatherer
		if err == nil {
			g, err = a.gathererOf(&c.Metrics)
		}
		if err == nil {
			a.remote.set(ConfigReport{State: configApplied, Group: got.Group, Version: got.Version, Hash: got.Hash, Own: own})
			a.sender.SetHeartbeat(c.Heartbeat.Period)
			return c, g, nil
		}
		a.log.Error("the cluster's configuration that was kept is not good here any more: agent.yaml alone counts", "version", got.Version, "err", err)
		a.remote.set(refusal(ConfigReport{}, got, err))
	}
	g, err := a.gathererOf(&a.cfg.Metrics)
	a.sender.SetHeartbeat(a.cfg.Heartbeat.Period)
	return a.cfg, g, err
}

// merge checks a configuration of the cluster and puts it over agent.yaml.
func (a *Agent) merge(got *sender.GroupConfig) (*config.Config, []string, error) {
	if got.Version == 0 {
		return a.cfg, nil, nil
	}
	if hash := config.HashGroup([]byte(got.Body)); hash != got.Hash {
		return nil, nil, fmt.Errorf("the text has hash %s, not %s: it was damaged on its way, %w", hash, got.Hash, errLater)
	}
	g, err := config.ParseGroup([]byte(got.Body))
	if err != nil {
		return nil, nil, err
	}
	c, own, err := a.cfg.Merge(g)
	return &c, own, err
}

// errLater says of what keeps a configuration from being taken that it has nothing to do with what the cluster wants and
// may be over the next time.
var errLater = errors.New("it is tried again")

// refusal is the report on a configuration that is not taken while before stays in effect.
func refusal(before ConfigReport, got *sender.GroupConfig, err error) ConfigReport {
	r := before
	r.State, r.WantedVersion, r.WantedHash = configRefused, got.Version, got.Hash
	if errors.Is(err, errLater) {
		r.State = configWaiting
	}
	r.Error = strings.TrimSpace(err.Error())
	if len(r.Error) > maxReason {
		r.Error = strings.ToValidUTF8(r.Error[:maxReason], "") + " ..."
	}
	return r
}

// followCluster takes over what the cluster sets until ctx ends. What is not good changes nothing.
func (a *Agent) followCluster(ctx context.Context, failures chan<- error) {
	if !a.cfg.Remote.Enabled {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-a.remote.news:
			if a.remote.settled(&n) {
				continue
			}
		}
		got, err := a.sender.Config(ctx)
		if err != nil {
			a.log.Warn("the configuration of the group cannot be fetched, it is tried again", "err", err)
			continue
		}
		before := a.remote.report()
		if err := a.adopt(ctx, &got, failures); err != nil {
			if ctx.Err() != nil {
				return
			}
			now := refusal(before, &got, err)
			a.remote.set(now)
			if now.State == configWaiting && before.State == now.State && before.Error == now.Error {
				continue // told already; it is tried again when a heartbeat is due
			}
			if now.Error != before.Error {
				a.log.Error("the configuration of the group is not taken", "group", got.Group, "version", got.Version, "err", err)
				a.Event("config-refused", fmt.Sprintf("configuration %d of group %s is not taken: %v", got.Version, got.Group, err))
			}
		}
		a.sender.BeatSoon() // the cluster learns at once how it went
	}
}

// adopt checks a configuration of the cluster, keeps it on the disk and puts it into effect.
func (a *Agent) adopt(ctx context.Context, got *sender.GroupConfig, failures chan<- error) error {
	c, own, err := a.merge(got)
	if err != nil {
		return err
	}
	now := a.effective.Load()
	fresh := !sameSources(now, c)
	var g prometheus.Gatherer
	if fresh {
		if g, err = a.gathererOf(&c.Metrics); err != nil {
			return err
		}
	}
	if err := writeRemote(a.remotePath(), a.opt.Identity.AgentID, got); err != nil {
		return fmt.Errorf("%w: %w", err, errLater)
	}
	if fresh {
		if err := a.replaceSources(ctx, c, g, failures); err != nil {
			return err
		}
	}
	a.effective.Store(c)
	a.sender.SetHeartbeat(c.Heartbeat.Period)
	was := a.remote.report()
	state := ConfigReport{State: configApplied, Group: got.Group, Version: got.Version, Hash: got.Hash, Own: own}
	if got.Version == 0 {
		state = ConfigReport{State: configNone, Group: got.Group}
	}
	a.remote.set(state)
	if was.Version != got.Version || was.Group != got.Group {
		a.log.Info("the configuration of the group is in effect", "group", got.Group, "version", got.Version, "kept", own)
		a.Event("config", fmt.Sprintf("configuration %d of group %s is in effect", got.Version, got.Group))
	}
	return nil
}

// sameSources reports whether two configurations collect and follow the same.
func sameSources(a, b *config.Config) bool {
	text := func(c *config.Config) string {
		b, err := yaml.Marshal([]any{c.Metrics, c.Logs, c.Journal})
		if err != nil {
			return ""
		}
		return string(b)
	}
	t := text(a)
	return t != "" && t == text(b)
}

func (a *Agent) remotePath() string { return filepath.Join(a.cfg.DataDir, remoteFile) }

// kept is a configuration as it lies in remoteFile.
type kept struct {
	Agent string `json:"agent_id,omitempty"` // whom it was for
	sender.GroupConfig
}

// readRemote reads what the cluster set last for the agent; nil when it set nothing, or set it for whom this machine was
// before it was enrolled anew, perhaps with another cluster.
func readRemote(path, agent string) (*sender.GroupConfig, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration of the cluster: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRemote))
	if err != nil {
		return nil, fmt.Errorf("read configuration of the cluster: %w", err)
	}
	var got kept
	if err := json.Unmarshal(b, &got); err != nil {
		return nil, fmt.Errorf("read configuration of the cluster %s: %w", path, err)
	}
	if got.Agent != "" && got.Agent != agent {
		return nil, nil
	}
	return &got.GroupConfig, nil
}

// writeRemote keeps a configuration so that a crash leaves the old one or the new one.
func writeRemote(path, agent string, got *sender.GroupConfig) error {
	if got.Version == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget configuration of the cluster: %w", err)
		}
		return nil
	}
	b, err := json.Marshal(kept{agent, *got})
	if err != nil {
		return fmt.Errorf("encode configuration of the cluster: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".remote-*") // mode 0600
	if err != nil {
		return fmt.Errorf("keep configuration of the cluster in %s: %w", path, nameless(err))
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep configuration of the cluster in %s: %w", path, nameless(err))
	}
	return nil
}

// nameless is an error without the name of the file: that of a temporary one is another each time, and makes it look new.
func nameless(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}
