package systemtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// alive reports whether the node's process runs; one that has ended is no more than an entry until it is waited for.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// revive starts a node again that has ended by itself, as its service's unit does.
func (tr *trial) revive(n *devNode) (bool, error) {
	if alive(n.PID) {
		return false, nil
	}
	if cmd := tr.c.again[n.ID]; cmd != nil {
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code == 13 || code == 12 || code == 10 {
			return false, fmt.Errorf("%s ended with exit code %d, after which nobody starts it again", n.ID, code)
		}
		delete(tr.c.again, n.ID)
	}
	return true, tr.c.restart(n)
}

// allUp brings every node up that is down.
func (tr *trial) allUp(ctx context.Context) error {
	for i := range tr.c.Nodes {
		if _, err := tr.revive(&tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	return tr.allReady(ctx)
}

// repairStatus is what a node says of its damage.
type repairStatus struct {
	State   string `json:"state"`
	Refused string `json:"refused"`
	Damage  []struct {
		Part, Place string
		FoundAt     int64 `json:"found_at"`
	} `json:"damage"`
	History []struct {
		Part, Place, How string
		FoundAt          int64 `json:"found_at"`
		RepairedAt       int64 `json:"repaired_at"`
	} `json:"history"`
}

// repairOf asks a node how its data or that of another is.
func (tr *trial) repairOf(ctx context.Context, asked, of *devNode) (st repairStatus, err error) {
	var all struct {
		Nodes []struct {
			ID     string        `json:"id"`
			Repair *repairStatus `json:"repair"`
		} `json:"nodes"`
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := tr.c.get(ctx, asked, "/v1/cluster", nil, &all); err != nil {
		return st, err
	}
	for _, n := range all.Nodes {
		if n.ID == of.ID && n.Repair != nil {
			return *n.Repair, nil
		}
	}
	return repairStatus{State: "whole"}, nil
}

// mendedAs says how damage ended.
type mendedAs struct {
	Part, Place, How string
	RepairedAt       int64
}

// heals waits until the node is ready and whole and returns what it has found, and repaired, since begin.
func (tr *trial) heals(ctx context.Context, n *devNode, begin time.Time) (ended []mendedAs, err error) {
	said := time.Now()
	var dead error
	err = until(ctx, 2*damageGoal, func(ctx context.Context) (why error) {
		defer func() {
			if why != nil && time.Since(said) > 20*time.Second {
				said = time.Now()
				tr.logf("%s: %v", n.ID, why)
			}
		}()
		again, err := tr.revive(n)
		if err != nil {
			dead = err
			return nil
		}
		if again {
			return errors.New("it was started again")
		}
		if err := tr.isReady(ctx, n); err != nil {
			return err
		}
		st, err := tr.repairOf(ctx, n, n)
		if err != nil {
			return err
		}
		if st.State != "whole" || len(st.Damage) > 0 {
			return fmt.Errorf("%s is %s: %+v", n.ID, st.State, st)
		}
		ended = nil
		for _, h := range st.History {
			if h.FoundAt >= begin.UnixMilli() {
				ended = append(ended, mendedAs{h.Part, h.Place, h.How, h.RepairedAt})
			}
		}
		return nil
	})
	if err := errors.Join(dead, err); err != nil {
		return nil, fmt.Errorf("%s does not become whole: %w", n.ID, err)
	}
	return ended, nil
}

// search has a node search all that it keeps for damage and returns when it is through.
func (tr *trial) search(ctx context.Context, n *devNode) error {
	var asked time.Time
	var dead error
	err := until(ctx, 2*damageGoal, func(ctx context.Context) error {
		again, err := tr.revive(n)
		if err != nil {
			dead = err
			return nil
		}
		if again {
			asked = time.Time{} // what was begun before is not begun anew
			return errors.New("it was started again")
		}
		began, last, took, err := tr.lastPass(ctx, n)
		if err != nil {
			return err
		}
		switch {
		case !asked.IsZero() && last-took >= asked.UnixMilli():
			return nil
		case began == 0 && (asked.IsZero() || time.Since(asked) > 3*time.Second): // one that was under way, or went on, has not seen all
			now := time.Now()
			if err := tr.post(ctx, n, "/v1/cluster/scrub"); err != nil {
				return err
			}
			asked = now
		}
		return fmt.Errorf("%s has not searched for damage since", n.ID)
	})
	return errors.Join(dead, err)
}

// lastPass tells when the search began that is under way, when the last one was through and how long it took, in ms.
func (tr *trial) lastPass(ctx context.Context, n *devNode) (began, last, took int64, err error) {
	var all struct {
		Nodes []struct {
			Node  string `json:"node"`
			Error string `json:"error"`
			Began int64  `json:"began"`
			Last  int64  `json:"last_pass"`
			Took  int64  `json:"last_took_ms"`
		} `json:"nodes"`
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := tr.c.get(ctx, n, "/v1/cluster/integrity", nil, &all); err != nil {
		return 0, 0, 0, err
	}
	for _, s := range all.Nodes {
		if s.Node == n.ID && s.Error == "" {
			return s.Began, s.Last, s.Took, nil
		}
	}
	return 0, 0, 0, fmt.Errorf("%s says nothing of its search for damage", n.ID)
}

// post asks a node to do something.
func (tr *trial) post(ctx context.Context, n *devNode, path string) error {
	return tr.c.change(ctx, n, http.MethodPost, path, nil, nil)
}

func (tr *trial) isReady(ctx context.Context, n *devNode) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/-/ready", nil)
	if err != nil {
		return err
	}
	resp, err := tr.c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
		return fmt.Errorf("%s is not ready: %s", n.ID, said)
	}
	return nil
}

// told waits until events say of all damage that was due that it was found and that it was repaired.
func (d *damager) told(ctx context.Context) error {
	var missing error
	err := until(ctx, time.Minute, func(ctx context.Context) error {
		var page struct {
			Events []struct {
				Kind, Host, Key string
				Count           int
			} `json:"events"`
		}
		q := url.Values{"limit": {"1000"}, "start": {strconv.FormatInt(d.begin.Add(-5*time.Second).UnixMilli(), 10)}}
		if err := d.tr.c.get(ctx, &d.tr.c.Nodes[0], "/v1/events", q, &page); err != nil {
			return err
		}
		got := make(map[string]map[toldOf]int)
		for _, e := range page.Events {
			if got[e.Kind] == nil {
				got[e.Kind] = make(map[toldOf]int)
			}
			got[e.Kind][toldOf{e.Host, e.Key}] += max(1, e.Count)
		}
		missing = nil
		for of, times := range d.due {
			for _, kind := range []string{"damage_found", "damage_repaired"} {
				if n := got[kind][of]; n < times {
					missing = errors.Join(missing, fmt.Errorf("%d events %s of %s (%s), %d are due", n, kind, of.node, of.key, times))
				}
			}
		}
		return missing
	})
	if err != nil {
		return errors.Join(err, missing)
	}
	return nil
}
