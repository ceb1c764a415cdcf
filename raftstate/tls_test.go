package raftstate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
)

// testCA signs the certificates of nodes.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test node CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{cert: cert, key: key, pool: x509.NewCertPool()}
	ca.pool.AddCert(cert)
	return ca
}

func (ca *testCA) identity(t testing.TB, id string) *forward.Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id}, DNSNames: []string{id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	pair := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &forward.Identity{
		ID:          id,
		Certificate: func() (*tls.Certificate, error) { return pair, nil },
		Roots:       func() *x509.CertPool { return ca.pool },
	}
}

// tlsNodes starts nodes on loopback; the first makes the cluster and the others join it.
func tlsNodes(t testing.TB, size int, tune func(*Config)) []*Node {
	t.Helper()
	ca := newTestCA(t)
	root := t.TempDir()
	var nodes []*Node
	for i := range size {
		id := fmt.Sprintf("node-%d", i+1)
		cfg := Config{
			NodeID: id, DataDir: filepath.Join(root, id), Listen: "127.0.0.1:0", Identity: ca.identity(t, id), DiskReserve: -1,
			OnFatal: func(err error) { t.Errorf("node %s: %v", id, err) },
			PeerHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s greets %s", id, forward.PeerID(r.TLS))
			}),
		}
		if i == 0 {
			cfg.Bootstrap = []Server{{ID: id}}
		}
		if tune != nil {
			tune(&cfg)
		}
		n, err := Open(context.Background(), cfg, Sinks{Metrics: &fakeMetrics{}, Logs: &fakeLogs{}})
		if err != nil {
			t.Fatalf("open %s: %v", id, err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Errorf("close %s: %v", id, err)
			}
		})
		nodes = append(nodes, n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), tlsPatience)
	defer cancel()
	if err := nodes[0].Barrier(ctx); err != nil { // elects itself after its time-out
		for ctx.Err() == nil && err != nil {
			err = nodes[0].Barrier(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes[1:] {
		if err := joinAndVote(ctx, nodes[0], n); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

// tlsPatience is how long nodes in real time may take on a busy machine: it only ends what hangs.
const tlsPatience = 3 * time.Minute

// again tries until there is a leader that does it: a busy machine loses one without any fault.
func again(ctx context.Context, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrUnknown) || ctx.Err() != nil {
			return err
		}
		retry := time.NewTimer(50 * time.Millisecond)
		<-retry.C
	}
}

func TestThreeNodesOverTLS(t *testing.T) {
	nodes := tlsNodes(t, 3, nil)
	ctx, cancel := context.WithTimeout(context.Background(), tlsPatience)
	defer cancel()
	set := func(n *Node, value string) uint64 {
		t.Helper()
		var index uint64
		var res []command.Result
		err := again(ctx, func() (err error) {
			index, res, err = n.Propose(ctx, command.NewMetaTxn(command.Txn{Ops: []command.Op{{Bucket: "settings", Key: "k", Value: []byte(value)}}}))
			return err
		})
		if err != nil || res[0].Status != command.StatusOK {
			t.Fatalf("propose: %v %+v", err, res)
		}
		return index
	}
	for i, n := range nodes {
		index := set(n, fmt.Sprint(i))
		for _, other := range nodes {
			if err := other.WaitApplied(ctx, index); err != nil {
				t.Fatal(err)
			}
			if v, _ := other.State().Get("settings", "k"); string(v.Data) != fmt.Sprint(i) {
				t.Errorf("%s reads %q, %d was written", other.cfg.NodeID, v.Data, i)
			}
		}
	}
	for _, m := range nodes[2].Status().Members {
		if !m.Voter {
			t.Errorf("%s has no vote", m.ID)
		}
	}
	resp, err := (&http.Client{Transport: nodes[1].PeerClient().Transport()}).Get("https://node-3/hello")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "node-3 greets node-2" {
		t.Errorf("peer page says %q", body)
	}
	if err := again(ctx, func() error { return nodes[0].RemoveServer(ctx, "node-3") }); err != nil {
		t.Error(err)
	}
	waitFor(t, "two members after one was removed", func() bool { return len(nodes[0].Status().Members) == 2 })
	leader, _ := nodes[0].Leader()
	to := "node-1"
	if leader == to {
		to = "node-2"
	}
	if err := again(ctx, func() error { return nodes[1].TransferLeadership(ctx, to) }); err != nil {
		t.Error(err)
	}
	waitFor(t, "the other leader", func() bool { id, _ := nodes[0].Leader(); return id == to })
	set(nodes[0], "end")
}

func BenchmarkProposeOverTLS(b *testing.B) {
	nodes := tlsNodes(b, 3, nil)
	for _, size := range []int{4 << 10, 64 << 10, 240 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			value := []byte(strings.Repeat("v", size))
			b.SetBytes(int64(size))
			var wg sync.WaitGroup
			work := make(chan int)
			for w := range 16 {
				wg.Go(func() {
					for range work {
						_, _, err := nodes[w%3].Propose(context.Background(), command.NewMetaTxn(command.Txn{
							Ops: []command.Op{{Bucket: "bench", Key: fmt.Sprint(w), Value: value}},
						}))
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			i := 0
			for b.Loop() {
				work <- i
				i++
			}
			close(work)
			wg.Wait()
		})
	}
}

// joinAndVote makes n a voter of the cluster that member is of, as soon as it is fit to.
func joinAndVote(ctx context.Context, member, n *Node) error {
	if err := member.AddNonvoter(ctx, n.cfg.NodeID, n.PeerAddr()); err != nil {
		return err
	}
	for {
		err := member.AddVoter(ctx, n.cfg.NodeID, n.PeerAddr())
		if err == nil || ctx.Err() != nil {
			return err
		}
		retry := time.NewTimer(50 * time.Millisecond)
		<-retry.C
	}
}
