package systemtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// spoil changes many bytes of the files of a kind of a node that is down.
func (tr *trial) spoil(n *devNode, k *fileKind) error {
	files := tr.files(n, k)
	if len(files) == 0 {
		return fmt.Errorf("%s has no %s", n.ID, k.name)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for i := min(64, len(b)-1); i < len(b); i += 97 {
			b[i] ^= 0x10
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// downAndSpoilt kills the nodes and damages files of a kind on each.
func (tr *trial) downAndSpoilt(kinds map[*devNode]*fileKind) error {
	for n := range kinds {
		if err := tr.c.kill(n); err != nil {
			return err
		}
	}
	for n, k := range kinds {
		if err := tr.spoil(n, k); err != nil {
			return err
		}
		tr.faulted(1)
	}
	return nil
}

// damageTwo damages different stores of two nodes at once.
func (tr *trial) damageTwo(ctx context.Context) error {
	d, err := tr.damager(ctx)
	if err != nil {
		return err
	}
	defer d.stop()
	first := tr.rng.IntN(3)
	a, b := &tr.c.Nodes[first], &tr.c.Nodes[(first+1)%3]
	wal, manifest := damageSets["bit-metrics"][0], damageSets["bit-lines"][2]
	begin := time.Now()
	if err := tr.downAndSpoilt(map[*devNode]*fileKind{a: &wal, b: &manifest}); err != nil {
		return err
	}
	for _, n := range []*devNode{a, b} {
		if err := tr.c.restart(n); err != nil {
			return err
		}
	}
	if err := d.repaired(ctx, begin, a, b); err != nil {
		return err
	}
	return tr.compare(ctx)
}

// repaired returns when the nodes are whole again and give right answers, their damage was told as events, and nobody has
// given a wrong answer.
func (d *damager) repaired(ctx context.Context, begin time.Time, nodes ...*devNode) error {
	tr := d.tr
	d.begin = begin
	for _, n := range nodes {
		all, err := tr.heals(ctx, n, begin)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return fmt.Errorf("%s did not notice its damage", n.ID)
		}
		for _, m := range all {
			d.due[toldOf{n.ID, m.Part + ": " + m.Place}]++
			tr.recovered(time.Duration(m.RepairedAt-begin.UnixMilli()) * time.Millisecond)
			tr.note("%s: %s: %s, %s", n.ID, m.Part, m.Place, m.How)
		}
	}
	for i := range tr.c.Nodes {
		if err := d.answers(ctx, &tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	right, refused := int64(0), int64(0)
	for _, r := range d.readers {
		right, refused = right+r.right.Load(), refused+r.refused.Load()
	}
	d.stop()
	if ws := d.takeWrong(); len(ws) > 0 {
		return fmt.Errorf("%d wrong answers: %s", len(ws), ws[0])
	}
	tr.note("%d answers right, %d refused or partial, 0 wrong", right, refused)
	return d.told(ctx)
}

// damageMajority damages the same store on two nodes of three, sees it refused and named, and has an operator decide.
func (tr *trial) damageMajority(ctx context.Context) error {
	d, err := tr.damager(ctx)
	if err != nil {
		return err
	}
	defer d.stop()
	first := tr.rng.IntN(3)
	a, b, whole := &tr.c.Nodes[first], &tr.c.Nodes[(first+1)%3], &tr.c.Nodes[(first+2)%3]
	manifest := damageSets["bit-lines"][2]
	begin := time.Now()
	if err := tr.downAndSpoilt(map[*devNode]*fileKind{a: &manifest, b: &manifest}); err != nil {
		return err
	}
	for _, n := range []*devNode{a, b} {
		if err := tr.c.restart(n); err != nil {
			return err
		}
	}
	if err := tr.majorityNamed(ctx, whole, a, b); err != nil {
		return err
	}
	ordered := time.Now()
	for _, n := range []*devNode{a, b} {
		if err := syscall.Kill(n.PID, syscall.SIGTERM); err != nil {
			return err
		}
		if cmd := tr.c.again[n.ID]; cmd != nil {
			_ = cmd.Wait()
			delete(tr.c.again, n.ID)
		}
		if err := tr.triward(ctx, n, nil, "cluster", "repair", "--offline", "--from", whole.ID); err != nil {
			return err
		}
		if err := tr.c.restart(n); err != nil {
			return err
		}
	}
	if err := d.repaired(ctx, begin, a, b); err != nil {
		return err
	}
	tr.note("whole %v after the order", time.Since(ordered).Round(100*time.Millisecond))
	return tr.compare(ctx)
}

// majorityNamed returns when both nodes are said to refuse their repair because the other one is damaged too.
func (tr *trial) majorityNamed(ctx context.Context, asked, a, b *devNode) error {
	return until(ctx, 2*time.Minute, func(ctx context.Context) error {
		for _, n := range []*devNode{a, b} {
			st, err := tr.repairOf(ctx, asked, n)
			if err != nil {
				return err
			}
			if !strings.Contains(st.Refused, "majority") || !strings.Contains(st.Refused, a.ID) || !strings.Contains(st.Refused, b.ID) {
				return fmt.Errorf("the majority is not named: %s: %+v", n.ID, st)
			}
		}
		return nil
	})
}
