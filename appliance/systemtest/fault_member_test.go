package systemtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// needFormatOne is the program of the commit that fixed format 1. It is built when the first row asks for it.
var needFormatOne = need{"the program of format 1", func() error { _, err := oldProgram(); return err }}

// memberRows are those of changes of the members and of their programs.
func memberRows() []faultRow {
	return []faultRow{
		{
			name: "rolling-upgrade", fault: "the program of format 1 is replaced node by node by this one, back and forth, each in good order or by kill -9, with a kill of another node in between",
			needs: []need{needFormatOne}, weight: 110 * time.Second, goal: startGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.rollingUpgrade(ctx) },
		},
		{
			name: "member-replace", fault: "a follower's disk is lost and its machine joins anew under its name, while the others lose the cable between them in the middle of it",
			needs: []need{needNet}, weight: 65 * time.Second, goal: startGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.replaceMember(ctx) },
		},
		{
			name: "member-unsafe", fault: "nodes are removed, demoted and made to lead while the leader or a follower is cut off", needs: []need{needNet}, weight: 80 * time.Second,
			run: func(ctx context.Context, tr *trial) error { return tr.unsafeChanges(ctx) },
		},
	}
}

// rollingUpgrade begins with the old program on all nodes and ends with the new one on all.
func (tr *trial) rollingUpgrade(ctx context.Context) error {
	old, err := oldProgram()
	if err != nil {
		return fmt.Errorf("%w: %w", errNotRun, err)
	}
	fresh := tr.bin
	runs := [3]string{old, old, old}
	program := func(i int, cmd *exec.Cmd) { cmd.Path = filepath.Join(runs[i], "triward"); cmd.Args[0] = cmd.Path }
	if err := tr.found(ctx, plan{command: program}); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	c := tr.c
	swap := func(i int, bin string) error {
		n := &c.Nodes[i]
		takeLongest(tr.traffic.senders)
		stop := c.kill
		if tr.rng.IntN(2) == 0 {
			stop = c.terminate
		}
		if err := stop(n); err != nil {
			return err
		}
		runs[i] = bin
		if err := errors.Join(c.restart(n), c.ready(ctx, n), tr.progress(ctx, 3)); err != nil {
			return fmt.Errorf("%s under the program in %s: %w", n.ID, bin, err)
		}
		tr.recovered(takeLongest(tr.traffic.senders))
		tr.faulted(1)
		return nil
	}
	for done := 0; done < 3; {
		i := tr.rng.IntN(3)
		to := fresh
		if runs[i] == fresh {
			if tr.rng.IntN(3) > 0 {
				if err := swap(i, fresh); err != nil { // a kill of a node that is done
					return err
				}
				continue
			}
			to = old // the way back is open
		}
		if err := swap(i, to); err != nil {
			return err
		}
		done = 0
		for _, bin := range runs {
			if bin == fresh {
				done++
			}
		}
	}
	return tr.compare(ctx)
}

// replaceMember wipes a follower and lets it join anew, with a cut between the others at some moment.
func (tr *trial) replaceMember(ctx context.Context) error {
	if err := tr.found(ctx, plan{apart: true}); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	c := tr.c
	for range 2 {
		leader, err := c.leader(ctx)
		if err != nil {
			return err
		}
		gone, err := tr.follower(ctx)
		if err != nil {
			return err
		}
		rest := 3 - tr.index(leader) - tr.index(gone)
		if err := c.kill(gone); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(gone.DataDir), os.RemoveAll(filepath.Join(filepath.Dir(gone.Config), "tls"))); err != nil {
			return err
		}
		tr.faulted(1)
		if err := tr.progress(ctx, 3); err != nil {
			return err
		}
		takeLongest(tr.traffic.senders)
		if err := tr.joinAt(ctx, leader, gone); err != nil {
			return fmt.Errorf("join anew: %w", err)
		}
		if err := pause(ctx, tr.between(0, 6*time.Second)); err != nil {
			return err
		}
		// The leader may have a majority with the new one by now, or not yet; either way nothing is lost.
		if err := tr.net.isolate(ctx, tr.places[tr.index(leader):tr.index(leader)+1], tr.places[rest:rest+1]); err != nil {
			return err
		}
		tr.faulted(1)
		if err := pause(ctx, tr.between(3*time.Second, 8*time.Second)); err != nil {
			return err
		}
		begin := time.Now()
		if err := tr.heal(ctx); err != nil {
			return err
		}
		if err := tr.progress(ctx, 3); err != nil {
			return fmt.Errorf("after the cable was mended: %w", err)
		}
		tr.recovered(time.Since(begin))
		if err := c.waitPart(ctx, leader, gone.ID, "voter"); err != nil {
			return err
		}
		if err := tr.allReady(ctx); err != nil {
			return err
		}
	}
	return tr.compare(ctx)
}

// joinAt lets an emptied node join anew at a member, and starts it.
func (tr *trial) joinAt(ctx context.Context, at, n *devNode) error {
	var answer struct {
		Token string `json:"token"`
	}
	if err := tr.c.change(ctx, at, "POST", "/v1/tokens/join", map[string]any{"kind": "node"}, &answer); err != nil {
		return err
	}
	if err := tr.triward(ctx, n, []string{"TRIWARD_JOIN_TOKEN=" + answer.Token}, "cluster", "join", "--addr", at.URL); err != nil {
		return err
	}
	return tr.c.restart(n)
}

// unsafeChanges asks for changes that would leave no majority, while one node is cut off, and for the one that would not.
func (tr *trial) unsafeChanges(ctx context.Context) error {
	if err := tr.found(ctx, plan{apart: true}); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	c := tr.c
	refused := func(at, n *devNode, verb string) error {
		err := c.change(ctx, at, "POST", "/v1/cluster/nodes/"+n.ID+"/"+verb, struct{}{}, new(struct{}))
		var said *answerError
		switch {
		case err == nil:
			return fmt.Errorf("%s of node %s was done, which left no majority", verb, n.ID)
		case !errors.As(err, &said) || !strings.Contains(said.body, "would answer") && !strings.Contains(said.body, "no leader"):
			return fmt.Errorf("%s of node %s was refused without the reason: %w", verb, n.ID, err)
		}
		return nil
	}
	for k := range 2 {
		leader, err := c.leader(ctx)
		if err != nil {
			return err
		}
		away := leader // the leader is cut off in the second round: the others elect one
		if k == 0 {
			if away, err = tr.follower(ctx); err != nil {
				return err
			}
		}
		if err := tr.apart(ctx, tr.index(away)); err != nil {
			return err
		}
		tr.faulted(1)
		if err := tr.progress(ctx, 5); err != nil {
			return err
		}
		var stay []*devNode
		for i := range c.Nodes {
			if n := &c.Nodes[i]; n.ID != away.ID {
				stay = append(stay, n)
			}
		}
		for _, verb := range []string{"remove", "demote"} {
			if err := errors.Join(refused(stay[0], stay[1], verb), refused(stay[1], stay[1], verb), refused(away, stay[0], verb)); err != nil {
				return err
			}
		}
		if err := tr.progress(ctx, 3); err != nil {
			return err
		}
		if err := tr.heal(ctx); err != nil {
			return err
		}
		if err := tr.allReady(ctx); err != nil {
			return err
		}
		if err := c.waitPart(ctx, stay[0], stay[1].ID, "voter"); err != nil {
			return err
		}
	}
	return tr.compare(ctx)
}

// oldProgram is the folder of the program of format 1: the one that TRIWARD_FORMAT1_BIN names, else built once beside the
// test's own files.
func oldProgram() (string, error) {
	if dir := os.Getenv("TRIWARD_FORMAT1_BIN"); dir != "" {
		return dir, nil
	}
	bin := filepath.Join(os.TempDir(), fmt.Sprintf("twformat1-%d", os.Getpid()))
	if _, err := os.Stat(filepath.Join(bin, "triward")); err == nil {
		return bin, nil
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	commit, err := formatOneIs(root)
	if err != nil {
		return "", err
	}
	src := bin + ".src"
	defer os.RemoveAll(src)
	if err := os.MkdirAll(src, 0o700); err != nil {
		return "", err
	}
	pack := fmt.Sprintf("git -C %q archive --format=tar %s | tar -x -C %q", root, commit, src)
	if out, err := exec.Command("sh", "-c", pack).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack commit %s: %w\n%s", commit, err, out)
	}
	build := exec.Command("go", append(buildArgs(), "-o", bin+"/", "./appliance/cmd/triward")...)
	build.Dir, build.Env = src, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program of commit %s: %w\n%s", commit, err, out)
	}
	return bin, nil
}
