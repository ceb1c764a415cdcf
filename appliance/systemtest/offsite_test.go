package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// noRoute is how often anybody on this machine tried to reach an address off it, where there is no way: connections and
// datagrams, such as the questions to a name server.
func noRoute() (n uint64, err error) {
	v4, err := counters("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	v6, err := counters("/proc/net/snmp6") // not there without IPv6
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if _, ok := v4["Ip.OutNoRoutes"]; !ok {
		return 0, errors.New("/proc/net/snmp does not count what has no route")
	}
	return v4["Ip.OutNoRoutes"] + v6["Ip6OutNoRoutes"], nil
}

// counters reads both forms: a line of names before the line of values, and a name and a value on a line.
func counters(path string) (map[string]uint64, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := make(map[string]uint64)
	lines := strings.Split(string(body), "\n")
	for i, line := range lines {
		names := strings.Fields(line)
		if len(names) == 2 {
			all[names[0]], _ = strconv.ParseUint(names[1], 10, 64)
		}
		if i+1 == len(lines) || len(names) < 2 || !strings.HasSuffix(names[0], ":") {
			continue
		}
		values := strings.Fields(lines[i+1])
		for k := 1; k < len(names) && len(values) == len(names) && values[0] == names[0]; k++ {
			all[strings.TrimSuffix(names[0], ":")+"."+names[k]], _ = strconv.ParseUint(values[k], 10, 64)
		}
	}
	return all, nil
}

// TestNothingLeavesTheMachine: three nodes and an agent, used as a person uses them, through the loss of a node, on a
// machine whose only network is itself: all of it works, and nobody even tries to reach anything else.
func TestNothingLeavesTheMachine(t *testing.T) {
	if os.Getenv(inNamespace) == "" { // it goes on in a process of its own, whose environment it sets
		t.Parallel()
	}
	if !isCutOff(t) {
		return
	}
	before, err := noRoute()
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	dir := t.TempDir()
	bin := binaries(t, "")                                    // with the caches that are where they always are
	for _, name := range []string{"HOME", "XDG_STATE_HOME"} { // where the command line finds the cluster
		t.Setenv(name, dir)
	}
	boot, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := start(boot, bin, dir, "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	use := func(what string, args ...string) {
		t.Helper()
		err := until(ctx, time.Minute, func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, filepath.Join(c.bin, "triward"), args...).CombinedOutput()
			if err == nil && !strings.Contains(string(out), what) {
				err = errors.New("not there yet")
			}
			if err != nil {
				return fmt.Errorf("%v: %w: %s", args, err, out)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%v\n%s", err, c.tail())
		}
	}
	use("node_load1", "query", "instant", "node_load1")
	use("", "logs", "query", "error")
	use("tolerates 1 more", "cluster", "status")
	use("up", "agents", "list")
	leader, err := c.leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.kill(leader), c.restart(leader), c.ready(ctx, leader)); err != nil {
		t.Fatalf("%v\n%s", err, c.tail())
	}
	use("tolerates 1 more", "cluster", "status")
	// Until every node has made what it took durable and the agent has gone round some times.
	var first clusterStatus
	if err := c.get(ctx, leader, "/v1/cluster", nil, &first); err != nil {
		t.Fatal(err)
	}
	if err := until(ctx, 2*time.Minute, func(ctx context.Context) error {
		var st clusterStatus
		if err := c.get(ctx, leader, "/v1/cluster", nil, &st); err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if n.MarkIndex <= applied(first, n.ID) {
				return fmt.Errorf("the mark of %s is at %d", n.ID, n.MarkIndex)
			}
		}
		var answer struct {
			Data struct {
				Result []struct{ Value [2]json.RawMessage }
			}
		}
		if err := c.get(ctx, leader, "/api/v1/query", map[string][]string{"query": {"count_over_time(node_load1[10m])"}}, &answer); err != nil {
			return err
		}
		if len(answer.Data.Result) != 1 {
			return errors.New("there is no sample of the agent")
		}
		rounds, err := strconv.ParseFloat(strings.Trim(string(answer.Data.Result[0].Value[1]), `"`), 64)
		if err == nil && rounds < 2 {
			err = fmt.Errorf("the agent went round %v times", rounds)
		}
		return err
	}); err != nil {
		t.Errorf("%v\n%s", err, c.tail())
	}
	after, err := noRoute()
	if err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Errorf("something tried %d times to reach an address off this machine", after-before)
	}
	// The counter bites: an attempt to leave is counted.
	if conn, err := net.DialTimeout("tcp", "192.0.2.1:443", 5*time.Second); err == nil {
		conn.Close()
		t.Error("there is a way off this machine")
	}
	if now, err := noRoute(); err != nil || now <= after {
		t.Errorf("an attempt to leave the machine is not counted: %d, %d, %v", after, now, err)
	}
}
