package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// formatOneCommit finds in docs/formats.md the commit that fixed format 1.
var formatOneCommit = regexp.MustCompile("Format 1 is fixed by commit `([0-9a-f]{40})`")

// errNoHistory says that the history of this repository is not there: an archive, or a shallow clone.
var errNoHistory = errors.New("the history of this repository is not here")

// formatOneIs returns the commit that fixed format 1, which must be in the history.
func formatOneIs(root string) (string, error) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "formats.md"))
	if err != nil {
		return "", err
	}
	m := formatOneCommit.FindSubmatch(doc)
	if m == nil {
		return "", errors.New("docs/formats.md does not name the commit of format 1 in the form that this test looks for")
	}
	commit := string(m[1])
	if out, err := exec.Command("git", "-C", root, "cat-file", "-e", commit+"^{commit}").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: no commit %s (%w %s)", errNoHistory, commit, err, bytes.TrimSpace(out))
	}
	return commit, nil
}

// formatOne is the folder of the program of the commit that fixed format 1. Where the history is not there a test is not
// run and says so, and where it is, CI_STRICT makes it an error that the program cannot be had.
func formatOne(t *testing.T) (bin string, ok bool) {
	t.Helper()
	bin, err := oldProgram()
	if err != nil && (errors.Is(err, errNoHistory) || os.Getenv("CI_STRICT") == "") {
		t.Logf("NOT RUN: %v", err)
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("TRIWARD_FORMAT1_BIN") == "" {
		t.Cleanup(func() { _ = os.RemoveAll(bin) })
	}
	return bin, true
}

// swap replaces the program of a node: it is stopped in good order or killed, and started with that of another folder.
func (x *loaded) swap(n *devNode, bin string, inOrder bool) {
	x.t.Helper()
	stop := x.kill
	if inOrder {
		stop = x.terminate
	}
	x.bin = bin
	all(x.t, x.tail, stop(n), x.restart(n), x.ready(x.t.Context(), n))
}

// terminate ends a node as the service manager does.
func (c *cluster) terminate(n *devNode) error {
	p, err := os.FindProcess(n.PID)
	if err == nil {
		err = p.Signal(os.Interrupt)
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", n.ID, err)
	}
	if cmd := c.again[n.ID]; cmd != nil {
		_ = cmd.Wait()
		delete(c.again, n.ID)
		return nil
	}
	return until(context.Background(), time.Minute, func(context.Context) error { // triward dev reaps it
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", n.PID)); err == nil {
			return fmt.Errorf("%s (pid %d) is still there", n.ID, n.PID)
		}
		return nil
	})
}

// resume goes on sending after quiet.
func (x *loaded) resume() {
	running, stop := context.WithCancel(x.t.Context())
	x.stopSending = stop
	x.t.Cleanup(stop)
	for _, s := range x.senders {
		go func() { x.ended <- s.run(running, 20*time.Millisecond) }()
	}
}

// TestRollingUpgrade rolls three nodes from the program of format 1's commit to this one under load and with kills, back in
// the middle and forth again. Nothing is lost, the mixed cluster's digests are equal, and a node can go back afterwards, as
// the format was not raised; then it is.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	oldBin, ok := formatOne(t)
	if !ok {
		return
	}
	newBin := binaries(t, "")
	x := withSenders(t, oldBin, 3, 3)
	n := func(i int) *devNode { return &x.Nodes[i] }
	x.progress(10)
	x.swap(n(0), newBin, true)
	x.progress(5)
	x.swap(n(1), oldBin, false) // a kill of an old node beside a new one
	x.progress(5)
	x.swap(n(0), oldBin, true) // back to old
	x.progress(5)
	x.swap(n(0), newBin, false)
	x.progress(5)
	leader, err := x.leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x.swap(leader, newBin, false) // whichever it is: the leadership changes in a mixed cluster
	x.progress(5)
	x.quiet()
	x.compare() // while mixed
	x.resume()
	for i := range x.Nodes {
		x.swap(n(i), newBin, i%2 == 0)
		x.progress(5)
	}
	out, err := x.command(t.Context(), n(0), "upgrade", "status")
	if err != nil || !strings.Contains(out, "format of the cluster: 1") {
		t.Errorf("%v\n%s", err, out)
	}
	x.swap(n(2), oldBin, true) // it was not finalized: the way back is open
	x.progress(5)
	x.quiet()
	x.compare()
	x.resume()
	x.swap(n(2), newBin, true)
	if out, err := x.command(t.Context(), n(0), "upgrade", "finalize", "--yes"); err != nil || !strings.Contains(out, "the cluster's format is 2") {
		t.Fatalf("%v\n%s", err, out)
	}
	x.progress(5) // blocks of both versions from here on
	x.swap(n(1), newBin, false)
	x.progress(5)
	x.quiet()
	x.compare()
}

// planting is one edit of one file.
type planting struct {
	file string // below the root of the module
	edit
}

// formatThree is a change of this program that knows a format 3, in which there is a command 13 that does nothing. `triward
// cluster transfer-leader new-kind` proposes it.
func formatThree() []planting {
	return []planting{
		{"raftstate/machine/machine.go", edit{"const Format = 2\n", "const Format = 3\n"}},
		{"raftstate/machine/machine.go", edit{"	case command.TypeTick:\n", "	case command.Type(13):\n	case command.TypeTick:\n"}},
		{"raftstate/command/command.go", edit{"t <= TypeSelectorCut &&", "t <= TypeSelectorCut+1 &&"}},
		{"raftstate/command/command.go", edit{
			"func Since(t Type, _ uint8) uint32 {\n",
			"func Since(t Type, _ uint8) uint32 {\n	if t&^Ignorable == TypeSelectorCut+1 {\n		return 3\n	}\n",
		}},
		{"appliance/membership.go", edit{
			"	st := a.node.Status()\n	if to != \"\" {\n",
			"	if to == \"new-kind\" {\n		_, _, err := a.node.Propose(ctx, command.Command{Type: 13, Version: 1})\n		return api.MemberChange{}, err\n	}\n	st := a.node.Status()\n	if to != \"\" {\n",
		}},
	}
}

// overlayAll writes changed files, each of which may have several edits, for go build -overlay.
func overlayAll(t *testing.T, plants []planting) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, replace := t.TempDir(), make(map[string]string)
	for i, p := range plants {
		path := filepath.Join(root, filepath.FromSlash(p.file))
		from := path
		if changed := replace[path]; changed != "" {
			from = changed
		}
		src, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(src), p.old); n != 1 {
			t.Fatalf("the place to plant %q is found %d times in %s, want once: the source has changed, change the plant too", p.new, n, p.file)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[path], []byte(strings.Replace(string(src), p.old, p.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	desc, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, desc, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestFormatGate: a new kind of entry, of a format 3 that is planted, is refused until every member knows the format, one
// without a vote as well, and an operator has raised it; until then there is a way back, and afterwards there is none.
func TestFormatGate(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	oldBin, newBin := binaries(t, ""), binaries(t, overlayAll(t, formatThree()))
	x := withSenders(t, oldBin, 3, 2)
	reader, err := x.newNode("n4")
	if err != nil {
		t.Fatal(err)
	}
	all(t, x.tail, x.join(ctx, &x.Nodes[0], reader, "--read-only"), x.restart(reader), x.ready(ctx, reader))
	x.Nodes = append(x.Nodes, *reader)
	n := func(i int) *devNode { return &x.Nodes[i] }
	refused := func(at *devNode, why string) {
		t.Helper()
		for _, lead := range x.Nodes[:3] { // whoever leads, of the old or of the new version
			if _, err := x.command(ctx, n(0), "cluster", "transfer-leader", lead.ID); err != nil {
				t.Fatal(err)
			}
			if out, err := x.command(ctx, at, "cluster", "transfer-leader", "new-kind"); err == nil || !strings.Contains(out, "not all nodes know the command") {
				t.Fatalf("%s: %s leads: a new kind of entry was not refused: %v\n%s", why, lead.ID, err, out)
			}
		}
	}
	final := func(why string) {
		t.Helper()
		if out, err := x.command(ctx, n(0), "upgrade", "finalize", "--yes"); err == nil || !strings.Contains(out, why) {
			t.Fatalf("finalized all the same, want a refusal that says %q: %v\n%s", why, err, out)
		}
	}
	for i := range 3 {
		x.swap(n(i), newBin, true)
		x.progress(3)
		refused(n(0), fmt.Sprintf("%d of 3 voters are new", i+1))
		if i < 2 {
			final("upgrade it first")
		}
	}
	final("node n4") // a member without a vote applies entries too
	if err := x.kill(n(3)); err != nil {
		t.Fatal(err)
	}
	final("node n4 does not answer")
	x.bin = oldBin
	all(t, x.tail, x.restart(n(3)), x.ready(ctx, n(3)))
	x.swap(n(0), oldBin, true) // the way back is open
	x.progress(3)
	x.swap(n(0), newBin, true)
	x.swap(n(3), newBin, true)
	refused(n(0), "all are new, and nobody finalized it")
	if out, err := x.command(ctx, n(1), "upgrade", "finalize", "--yes"); err != nil || !strings.Contains(out, "the cluster's format is 3") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := x.command(ctx, n(0), "cluster", "transfer-leader", "new-kind"); err != nil {
		t.Fatal(err)
	}
	x.progress(3)
	x.quiet()
	x.compare()
	// The old program stops at once and says why; the data is as it was.
	if err := x.terminate(n(2)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(oldBin, "triward"), "server", "--config", n(2).Config)
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 13 || !strings.Contains(string(out), "format is 3") {
		t.Errorf("the old program on data of format 3: %v\n%s", err, out)
	}
	x.bin = newBin
	all(t, x.tail, x.restart(n(2)), x.ready(ctx, n(2)))
	x.compare()
	var st struct {
		Format uint32 `json:"format"`
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n(2).URL+"/v1/upgrade", nil)
	if err == nil {
		err = x.do(r, &st)
	}
	if err != nil || st.Format != 3 {
		t.Errorf("format %d %v", st.Format, err)
	}
}
