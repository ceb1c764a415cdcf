package systemtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// metaRows are changes of metadata by many at once: files of rules by compare-and-set, users by plain change, tokens that
// are good once. Their history must be linearizable.
func metaRows() []faultRow {
	return []faultRow{
		{
			name: "metadata", fault: "kill -9 of any node, a cut of the leader, SIGSTOP of the leader, while twelve people change the same rules, users and tokens",
			needs: []need{needNet}, weight: 60 * time.Second, short: true,
			run: func(ctx context.Context, tr *trial) error { return tr.metadata(ctx) },
		},
	}
}

// register is what one file of rules, or one user, is: the value that was written last and how often it was.
type register struct {
	version uint64 // 0 where there is none
	value   string
}

type metaOp struct {
	key   string
	read  bool
	cas   uint64 // the version that must be there; 0: whatever is there
	value string // that is written
}

type metaOutcome struct {
	ok, refused bool // neither: what became of it is not known
	register
}

// metaModel is a register for each key. A change whose outcome is not known may have been made at any time since, which
// its end at the end of time allows for, or never, which makes no difference to who came before.
var metaModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := make(map[string][]porcupine.Operation)
		var keys []string
		for _, o := range history {
			in, _ := o.Input.(metaOp)
			if by[in.key] == nil {
				keys = append(keys, in.key)
			}
			by[in.key] = append(by[in.key], o)
		}
		parts := make([][]porcupine.Operation, 0, len(keys))
		for _, k := range keys {
			parts = append(parts, by[k])
		}
		return parts
	},
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		now, _ := state.(register)
		in, _ := input.(metaOp)
		out, _ := output.(metaOutcome)
		if in.read {
			return out.value == now.value && (out.version == 0 || out.version == now.version), now
		}
		fits := in.cas == 0 || in.cas == now.version
		next := register{now.version + 1, in.value}
		switch {
		case out.ok:
			return fits && (out.version == 0 || out.version == next.version), next
		case out.refused:
			return !fits, now
		case fits:
			return true, next
		}
		return true, now
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v -> %+v", input, output)
	},
}

// history is what several clients saw.
type opHistory struct {
	begin time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func (h *opHistory) add(client int, in metaOp, out metaOutcome, called time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := int64(time.Since(h.begin))
	if !in.read && !out.ok && !out.refused {
		end = math.MaxInt64
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(called), Return: end})
}

// metaClient is one who changes metadata, at any node.
type metaClient struct {
	tr      *trial
	id      int
	rng     *rand.Rand
	http    *http.Client
	history *opHistory
	values  int
}

// one does one operation.
func (m *metaClient) one(ctx context.Context) error {
	c := m.tr.c
	n := &c.Nodes[m.rng.IntN(len(c.Nodes))]
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	if m.rng.IntN(3) == 0 {
		return m.user(ctx, n)
	}
	return m.rules(ctx, n)
}

// rules reads a file of rules and changes it as of the version that was read.
func (m *metaClient) rules(ctx context.Context, n *devNode) error {
	name := fmt.Sprintf("shared%d", m.rng.IntN(3))
	path := "/v1/rules/files/" + name
	var got struct {
		Version uint64
		Body    string
	}
	called := time.Since(m.history.begin)
	status, err := m.tr.call(ctx, m.http, n, http.MethodGet, path+"?consistency=linearizable", nil, &got)
	if status != http.StatusOK {
		return unexpected(status, err, path)
	}
	m.history.add(m.id, metaOp{key: name, read: true}, metaOutcome{ok: true, register: register{got.Version, valueOf(got.Body)}}, called)
	if m.rng.IntN(3) == 0 {
		return nil
	}
	m.values++
	value := fmt.Sprintf("c%d-%d", m.id, m.values)
	read := got.Version
	called = time.Since(m.history.begin)
	status, err = m.tr.call(ctx, m.http, n, http.MethodPut, path, map[string]any{"body": ruleBody(value), "version": read}, &got)
	in := metaOp{key: name, cas: read, value: value}
	switch status {
	case http.StatusOK:
		m.history.add(m.id, in, metaOutcome{ok: true, register: register{got.Version, value}}, called)
	case http.StatusConflict:
		m.history.add(m.id, in, metaOutcome{refused: true}, called)
	default:
		m.history.add(m.id, in, metaOutcome{}, called)
		return unexpected(status, err, path)
	}
	return nil
}

// user reads the role of a user, or sets it.
func (m *metaClient) user(ctx context.Context, n *devNode) error {
	name := fmt.Sprintf("person%d", m.rng.IntN(2))
	called := time.Since(m.history.begin)
	if m.rng.IntN(2) == 0 {
		var list struct{ Users []struct{ Name, Role string } }
		status, err := m.tr.call(ctx, m.http, n, http.MethodGet, "/v1/users?consistency=linearizable", nil, &list)
		if status != http.StatusOK {
			return unexpected(status, err, "/v1/users")
		}
		for _, u := range list.Users {
			if u.Name == name {
				m.history.add(m.id, metaOp{key: name, read: true}, metaOutcome{ok: true, register: register{value: u.Role}}, called)
			}
		}
		return nil
	}
	in := metaOp{key: name, value: []string{"viewer", "operator", "auditor"}[m.rng.IntN(3)]}
	status, err := m.tr.call(ctx, m.http, n, http.MethodPatch, "/v1/users/"+name, map[string]any{"role": in.value}, nil)
	m.history.add(m.id, in, metaOutcome{ok: status == http.StatusNoContent}, called)
	if status == http.StatusNoContent {
		return nil
	}
	return unexpected(status, err, "/v1/users/"+name)
}

// unexpected is an answer that no fault explains.
func unexpected(status int, err error, path string) error {
	if status == 0 || status >= 500 || status == http.StatusTooManyRequests {
		return nil
	}
	return fmt.Errorf("%s: status %d: %w", path, status, err)
}

func ruleBody(value string) string {
	return fmt.Sprintf("groups:\n  - name: shared\n    rules:\n      - alert: Never\n        expr: vector(0) > 1\n        labels: {value: %q}\n", value)
}

func valueOf(body string) string {
	_, rest, _ := strings.Cut(body, `value: "`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// call asks a node; status is 0 when it gave no answer. It may run beside the row.
func (tr *trial) call(ctx context.Context, client *http.Client, n *devNode, method, path string, body, answer any) (status int, err error) {
	c := *tr.c
	c.client = client
	r, err := newRequest(ctx, method, n.URL+path, body)
	if err != nil {
		return 0, err
	}
	err = c.do(r, answer)
	if a, ok := errors.AsType[*answerError](err); ok {
		return a.status, err
	}
	switch {
	case err != nil:
		return 0, err
	case answer == nil:
		return http.StatusNoContent, nil
	case method == http.MethodPost:
		return http.StatusCreated, nil
	}
	return http.StatusOK, nil
}

// metadata lets twelve change at once while faults come, and checks the history.
func (tr *trial) metadata(ctx context.Context) error {
	if err := tr.found(ctx, plan{apart: true}); err != nil {
		return err
	}
	c := tr.c
	h := &opHistory{begin: time.Now()}
	if err := tr.foundRegisters(ctx, h); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var work sync.WaitGroup
	bad := make(chan error, 16)
	for i := range 12 {
		m := &metaClient{tr: tr, id: i + 1, rng: rngOf(tr.seed, fmt.Sprint("client", i)), history: h}
		m.http = &http.Client{Timeout: 8 * time.Second, Transport: &http.Transport{TLSClientConfig: c.tlsConf}}
		work.Go(func() {
			defer m.http.CloseIdleConnections()
			for running.Err() == nil {
				if err := m.one(running); err != nil && running.Err() == nil {
					bad <- err
					return
				}
				_ = pause(running, time.Duration(10+m.rng.IntN(60))*time.Millisecond)
			}
		})
	}
	defer work.Wait()
	defer stop()
	winners := 0
	for range 5 {
		if err := tr.metaFault(ctx); err != nil {
			return err
		}
		tr.faulted(1)
		n, err := tr.redeemTogether(ctx)
		if err != nil {
			return err
		}
		winners += n
	}
	stop()
	work.Wait()
	select {
	case err := <-bad:
		return err
	default:
	}
	unknown := 0
	for _, o := range h.ops {
		if o.Return == math.MaxInt64 {
			unknown++
		}
	}
	tr.note("%d operations on 5 records, %d of unknown outcome; 5 tokens redeemed by 8 at once each: %d certificates", len(h.ops), unknown, winners)
	tr.other, tr.kind = len(h.ops), "operations"
	begin := time.Now()
	switch porcupine.CheckOperationsTimeout(metaModel, h.ops, 2*time.Minute) {
	case porcupine.Illegal:
		tr.violations.add(&tr.violations.differing, "the history of metadata is not linearizable: %s", firstIllegal(h.ops))
	case porcupine.Unknown:
		return fmt.Errorf("the history of %d operations could not be checked in %v", len(h.ops), time.Since(begin))
	case porcupine.Ok:
	}
	return tr.sameState(ctx)
}

// firstIllegal names the record whose history is illegal, how long a beginning of it is legal, and what happened around there.
// A beginning is what was over before a time: of what was not, the outcome is taken as not known.
func firstIllegal(ops []porcupine.Operation) string {
	var out []string
	for _, part := range metaModel.Partition(ops) {
		if porcupine.CheckOperationsTimeout(metaModel, part, time.Minute) != porcupine.Illegal {
			continue
		}
		in, _ := part[0].Input.(metaOp)
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
		last := sort.Search(len(part)-1, func(i int) bool {
			return porcupine.CheckOperationsTimeout(metaModel, knownAt(part, part[i].Return), 10*time.Second) == porcupine.Illegal
		})
		out = append(out, fmt.Sprintf("%s, at the latest with %s", in.key, described(part[last])))
		for _, o := range part {
			if o.Return > part[last].Call-int64(2*time.Second) && o.Call < part[last].Return {
				out = append(out, "  "+described(o))
			}
		}
	}
	return strings.Join(out, "\n")
}

// knownAt is what is known of a history at a time.
func knownAt(part []porcupine.Operation, at int64) []porcupine.Operation {
	var known []porcupine.Operation
	for _, o := range part {
		in, _ := o.Input.(metaOp)
		switch {
		case o.Call > at || o.Return > at && in.read:
			continue
		case o.Return > at:
			o.Return, o.Output = math.MaxInt64, metaOutcome{}
		}
		known = append(known, o)
	}
	return known
}

func described(o porcupine.Operation) string {
	end := "?"
	if o.Return != math.MaxInt64 {
		end = time.Duration(o.Return).String()
	}
	return fmt.Sprintf("client %d, %s to %s: %s", o.ClientId, time.Duration(o.Call), end, metaModel.DescribeOperation(o.Input, o.Output))
}

// foundRegisters makes the records that are changed later.
func (tr *trial) foundRegisters(ctx context.Context, h *opHistory) error {
	m := &metaClient{tr: tr, history: h}
	for i := range 3 {
		name := fmt.Sprintf("shared%d", i)
		called := time.Since(h.begin)
		var got struct{ Version uint64 }
		if err := tr.c.change(ctx, &tr.c.Nodes[0], http.MethodPut, "/v1/rules/files/"+name, map[string]any{"body": ruleBody("first")}, &got); err != nil {
			return err
		}
		h.add(m.id, metaOp{key: name, value: "first"}, metaOutcome{ok: true, register: register{got.Version, "first"}}, called)
	}
	for i := range 2 {
		name := fmt.Sprintf("person%d", i)
		called := time.Since(h.begin)
		body := map[string]any{"name": name, "password": "a long enough password", "role": "viewer"}
		if err := tr.c.change(ctx, &tr.c.Nodes[0], http.MethodPost, "/v1/users", body, nil); err != nil {
			return err
		}
		h.add(m.id, metaOp{key: name, value: "viewer"}, metaOutcome{ok: true}, called)
	}
	return nil
}

// metaFault is one fault, over when it returns.
func (tr *trial) metaFault(ctx context.Context) error {
	n, err := tr.c.leader(ctx)
	if err != nil {
		return err
	}
	switch tr.rng.IntN(4) {
	case 0:
		n = &tr.c.Nodes[tr.rng.IntN(len(tr.c.Nodes))]
		err = tr.c.kill(n)
		if err == nil {
			err = errors.Join(pause(ctx, tr.between(0, 3*time.Second)), tr.c.restart(n))
		}
	case 1:
		if err = tr.apart(ctx, tr.index(n)); err == nil {
			err = errors.Join(pause(ctx, tr.between(time.Second, 6*time.Second)), tr.heal(ctx))
		}
	case 2:
		if err = tr.oneWay(ctx, tr.index(n), tr.rng.IntN(2) == 0); err == nil {
			err = errors.Join(pause(ctx, tr.between(time.Second, 6*time.Second)), tr.heal(ctx))
		}
	case 3:
		if err = syscall.Kill(n.PID, syscall.SIGSTOP); err == nil {
			err = errors.Join(pause(ctx, tr.between(time.Second, 6*time.Second)), syscall.Kill(n.PID, syscall.SIGCONT))
			tr.mended()
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(tr.allReady(ctx), pause(ctx, tr.between(0, 2*time.Second)))
}

// redeemTogether makes a token for one agent, which eight redeem at once on all nodes while the leader is killed, and
// returns how many got a certificate: one, or none where the answer was lost.
func (tr *trial) redeemTogether(ctx context.Context) (int, error) {
	token, err := tr.c.agentToken(ctx)
	if err != nil {
		return 0, err
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	got, race := 0, fmt.Sprintf("race%d-", tr.faults)
	for i := range 8 {
		s, err := newSender(fmt.Sprint(race, i), []string{tr.c.Nodes[i%len(tr.c.Nodes)].AgentURL}, tr.c.tlsConf.Clone(), nil)
		if err != nil {
			return 0, err
		}
		work.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
			defer cancel()
			if s.enroll(ctx, token) == nil {
				mu.Lock()
				got++
				mu.Unlock()
			}
			s.http.CloseIdleConnections()
		})
	}
	n, err := tr.c.leader(ctx)
	if err == nil {
		err = errors.Join(pause(ctx, tr.between(0, 100*time.Millisecond)), tr.c.kill(n), tr.c.restart(n))
	}
	work.Wait()
	if err == nil && got > 1 {
		tr.violations.add(&tr.violations.doubled, "a token that is good once gave %d certificates", got)
	}
	tr.faulted(1)
	return got, errors.Join(err, tr.allReady(ctx), tr.oneAgent(ctx, race))
}

// oneAgent holds that the cluster itself knows of at most one agent of a race for a token: an answer may have been lost.
func (tr *trial) oneAgent(ctx context.Context, race string) error {
	var list struct {
		Agents []struct{ Hostname string }
	}
	err := until(ctx, 30*time.Second, func(ctx context.Context) error {
		return tr.c.get(ctx, &tr.c.Nodes[0], "/v1/agents", url.Values{"consistency": {"linearizable"}}, &list)
	})
	if err != nil {
		return err
	}
	known := 0
	for _, a := range list.Agents {
		if strings.HasPrefix(a.Hostname, race) {
			known++
		}
	}
	if known > 1 {
		tr.violations.add(&tr.violations.doubled, "a token that is good once made %d agents", known)
	}
	return nil
}

// What is illegal is named by the operation that shows it first, not by one that saw what was asked for after it began.
func TestIllegalIsNamed(t *testing.T) {
	op := func(client int, call, end int64, in metaOp, version uint64, value string) porcupine.Operation {
		in.key = "k"
		return porcupine.Operation{ClientId: client, Input: in, Call: call, Output: metaOutcome{ok: true, register: register{version, value}}, Return: end}
	}
	read := metaOp{read: true}
	said := firstIllegal([]porcupine.Operation{
		op(1, 0, 1, metaOp{value: "a"}, 1, "a"),
		op(2, 2, 9, read, 2, "b"), // slow: it saw what was written meanwhile
		op(1, 3, 8, metaOp{cas: 1, value: "b"}, 2, "b"),
		op(4, 2, 7, read, 1, "c"), // nobody wrote that
		op(5, 12, 13, read, 2, "b"),
	})
	if !strings.HasPrefix(said, "k, at the latest with client 4") {
		t.Error(said)
	}
}

// The model refuses what no order of operations explains.
func TestMetaModelBites(t *testing.T) {
	op := func(client int, call, end int64, in metaOp, out metaOutcome) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end}
	}
	first := op(0, 0, 1, metaOp{key: "k", value: "a"}, metaOutcome{ok: true, register: register{1, "a"}})
	second := op(1, 2, 5, metaOp{key: "k", cas: 1, value: "b"}, metaOutcome{ok: true, register: register{2, "b"}})
	unknown := op(1, 2, math.MaxInt64, metaOp{key: "k", cas: 1, value: "b"}, metaOutcome{})
	read := func(client int, call, end int64, version uint64, value string) porcupine.Operation {
		return op(client, call, end, metaOp{key: "k", read: true}, metaOutcome{ok: true, register: register{version, value}})
	}
	for what, c := range map[string]struct {
		ops   []porcupine.Operation
		legal bool
	}{
		"in order":                     {[]porcupine.Operation{first, second, read(2, 6, 7, 2, "b")}, true},
		"beside a change":              {[]porcupine.Operation{first, second, read(2, 3, 4, 1, "a"), read(3, 3, 4, 2, "b")}, true},
		"stale":                        {[]porcupine.Operation{first, second, read(2, 6, 7, 1, "a")}, false},
		"two winners":                  {[]porcupine.Operation{first, second, op(2, 2, 5, metaOp{key: "k", cas: 1, value: "c"}, metaOutcome{ok: true, register: register{2, "c"}})}, false},
		"refused for no reason":        {[]porcupine.Operation{first, op(2, 2, 5, metaOp{key: "k", cas: 1, value: "c"}, metaOutcome{refused: true})}, false},
		"unknown and made":             {[]porcupine.Operation{first, unknown, read(2, 6, 7, 2, "b"), read(2, 8, 9, 2, "b")}, true},
		"unknown and not made":         {[]porcupine.Operation{first, unknown, read(2, 6, 7, 1, "a")}, true},
		"unknown, made and taken back": {[]porcupine.Operation{first, unknown, read(2, 6, 7, 2, "b"), read(2, 8, 9, 1, "a")}, false},
	} {
		if porcupine.CheckOperations(metaModel, c.ops) != c.legal {
			t.Errorf("%s: want legal %v", what, c.legal)
		}
	}
}
