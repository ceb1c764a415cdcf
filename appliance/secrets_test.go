package appliance_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/internal/testcluster"
)

// forms are how a secret can lie in a file: as it is, in base64 whatever stands before it, in hexadecimal, and escaped.
func forms(secret []byte) [][]byte {
	all := [][]byte{
		secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret))),
		[]byte(url.QueryEscape(string(secret))),
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := enc.EncodeToString(append(make([]byte, before), secret...))
			// The first and the last digits depend on what stands beside the secret.
			all = append(all, []byte(text[[]int{0, 2, 3}[before]:len(text)-2]))
		}
	}
	return all
}

// sought finds many forms of many secrets in one pass over a file.
type sought struct {
	first  [1 << 16]bool // by the first two bytes
	byHead map[uint64][]form
}

type form struct {
	text []byte
	of   string
}

func newSought(t *testing.T, secrets map[string][]byte) *sought {
	t.Helper()
	s := &sought{byHead: make(map[uint64][]form)}
	for name, secret := range secrets {
		for _, text := range forms(secret) {
			if len(text) < 8 {
				t.Fatalf("the %s is too short to look for", name)
			}
			head := binary.LittleEndian.Uint64(text)
			s.first[uint16(head)] = true
			s.byHead[head] = append(s.byHead[head], form{text, name})
		}
	}
	return s
}

// in calls hit for each form that the body has.
func (s *sought) in(body []byte, hit func(form)) {
	for i := 0; i+8 <= len(body); i++ {
		head := binary.LittleEndian.Uint64(body[i:])
		if !s.first[uint16(head)] {
			continue
		}
		for _, f := range s.byHead[head] {
			if bytes.HasPrefix(body[i:], f.text) {
				hit(f)
			}
		}
	}
}

// keyBytes are the secret numbers of a private key, without what its form adds, which is the same for all.
func keyBytes(t *testing.T, pemText []byte) []byte {
	t.Helper()
	block, rest := pem.Decode(pemText)
	for block != nil && !strings.Contains(block.Type, "PRIVATE KEY") { // the certificate comes first
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		t.Fatalf("no key in %.40q", pemText)
	}
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		if _, err := x509.ParseECPrivateKey(block.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	der := block.Bytes
	// An elliptic curve's key is an octet string of 32 or 48 bytes behind the version.
	for _, head := range [][]byte{{0x02, 0x01, 0x01, 0x04, 0x20}, {0x02, 0x01, 0x01, 0x04, 0x30}, {0x04, 0x22, 0x04, 0x20}} {
		if at := bytes.Index(der, head); at >= 0 {
			n := int(head[len(head)-1])
			return der[at+len(head) : at+len(head)+n]
		}
	}
	t.Fatal("a private key of a form that the test does not know")
	return nil
}

// What lets somebody in, or opens something, is in no byte of any node's disk: it is hashed or sealed before it is
// proposed. Log, metadata, stores, backups and the node's own log are searched, in three nodes, for every kind of secret.
// What nodes hold beside their data, in files of their own (tls.dir), are their keys and the token of the command line.
func TestSecretsAreInNoFile(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	secrets := plant(t, c)
	const seen = "canary-that-may-be-seen"
	if err := c.Post(c.Nodes[2], "/v1/users", map[string]string{"name": seen, "password": "another-canary-password", "role": "viewer"}, nil); err != nil {
		t.Fatal(err)
	}
	secrets["password of the visible user"] = []byte("another-canary-password")
	c.WaitEqual(t)
	for _, n := range c.Nodes {
		n.Stop(t)
	}
	root := filepath.Dir(filepath.Dir(c.Nodes[0].Config.DataDir)) // all nodes' directories and what they logged
	look := newSought(t, secrets)
	var found [3]bool
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for i, n := range c.Nodes {
			if strings.HasPrefix(path, n.Config.DataDir) && bytes.Contains(body, []byte(seen)) {
				found[i] = true
			}
		}
		look.in(body, func(f form) {
			kept := strings.HasPrefix(f.of, "key of ") || strings.HasPrefix(f.of, "token of the command line")
			if !kept || filepath.Base(filepath.Dir(path)) != "tls" {
				t.Errorf("the %s is in %s as %.12s...", f.of, strings.TrimPrefix(path, root), f.text)
			}
		})
		return nil
	})
	if err != nil || files < 30 || found != [3]bool{true, true, true} {
		t.Errorf("%d files looked at, what is no secret found in %v: %v", files, found, err)
	}
}

// plant makes one of each kind of secret, uses it, and returns them by name.
func plant(t *testing.T, c *testcluster.Cluster) map[string][]byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n := c.Nodes[0]
	secrets := map[string][]byte{
		"first password": []byte(testcluster.Password), "API token": []byte(c.Token), "recovery key": []byte(c.Recovery),
	}
	add := func(name, secret string) {
		if len(secret) < 12 {
			t.Fatalf("the %s is %q", name, secret)
		}
		secrets[name] = []byte(secret)
	}
	plantLogins(t, c, add)

	var made struct {
		Token string `json:"token"`
	}
	for _, kind := range []string{"node", "agent"} {
		must(c.Post(n, "/v1/tokens/join", map[string]any{"kind": kind, "uses": 5}, &made))
		add(kind+"'s join token", made.Token)
	}
	must(c.Stranger("canary-host").Enroll(t, c.Nodes[1], made.Token))
	must(c.Post(n, "/v1/tokens/api", map[string]any{"name": "prom", "role": "ingest"}, &made))
	add("token of a sender", made.Token)

	const smtp, bearer, dingtalk, s3, passphrase = "canary-smtp-password", "canary-bearer-of-a-webhook", "canary-dingtalk-token", "canary-s3-secret-key", "canary-of-a-passphrase"
	must(c.Call(http.MethodPut, n, "/v1/routes", map[string]string{"body": `
route: {receiver: ops}
receivers:
  - name: ops
    email_configs: [{to: a@b.example, from: c@d.example, smarthost: "127.0.0.1:1", auth_username: u, auth_password: ` + smtp + `}]
    webhook_configs: [{url: "https://127.0.0.1:1/", http_config: {authorization: {credentials: ` + bearer + `}}}]
    dingtalk_configs: [{access_token: ` + dingtalk + `}]
`}, nil))
	// Nothing listens there: it fails, and what is logged of it is searched too.
	_ = c.Post(n, "/v1/receivers/test", map[string]string{"receiver": "ops"}, nil)
	must(c.Call(http.MethodPut, c.Nodes[1], "/v1/snapshots/schedules/offsite", map[string]any{
		"enabled": true, "at": "02:00", "plain": true,
		"target": map[string]string{"kind": "s3", "url": "s3://bucket/x", "endpoint": "https://127.0.0.1:1", "access_key": "key", "secret_key": s3},
	}, nil))
	_ = c.Post(n, "/v1/snapshots/schedules/offsite/run", map[string]any{}, nil)
	must(c.Post(c.Nodes[2], "/v1/snapshot", map[string]any{"passphrase": passphrase}, nil))
	add("SMTP password", smtp)
	add("webhook's token", bearer)
	add("DingTalk's token", dingtalk)
	add("S3 secret key", s3)
	add("passphrase of a backup", passphrase)

	secrets["agents' CA key"] = keyBytes(t, agentCAPEM(t, n))
	for _, node := range c.Nodes {
		own, err := node.Config.ReadToken()
		must(err)
		secrets["token of the command line on "+node.Config.NodeID] = []byte(own)
		for file, name := range map[string]string{"node.pem": "key of node " + node.Config.NodeID, "ca-key.pem": "key of the CA"} {
			body, err := os.ReadFile(filepath.Join(node.Config.TLS.Dir, file))
			must(err)
			secrets[name] = keyBytes(t, body)
		}
	}
	return secrets
}

// plantLogins is what people log in with.
func plantLogins(t *testing.T, c *testcluster.Cluster, add func(name, secret string)) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const given, own, chosen, typed = "canary-in-a-password", "canary-of-their-own", "canary-that-they-chose", "canary-typed-for-a-name"
	n, other := c.Nodes[0], c.Nodes[1]
	must(c.Post(n, "/v1/users", map[string]string{"name": "ada", "password": given, "role": "viewer"}, nil))
	c.WaitEqual(t)
	cookie, err := c.Login(other, "ada", given)
	must(err)
	var ticket struct {
		Ticket string `json:"ticket"`
	}
	must(c.Call(http.MethodPost, other, "/v1/session/ticket", nil, &ticket, cookie))
	must(c.Call(http.MethodPost, other, "/v1/session/password", map[string]string{"old": given, "new": own}, nil, cookie))
	var link struct {
		Path string `json:"path"`
	}
	must(c.Post(n, "/v1/users/eve/invite", map[string]string{"role": "operator"}, &link))
	_, secret, _ := strings.Cut(link.Path, "#")
	must(c.Post(other, "/v1/setup", map[string]string{"token": secret, "password": chosen}, nil))
	if _, err := c.Login(n, typed, "canary-of-a-failure"); err == nil {
		t.Error("a login without a user")
	}
	add("password", given)
	add("password that a user changed to", own)
	add("password chosen with a link", chosen)
	add("password of a failed login", "canary-of-a-failure")
	add("name of a failed login", typed)
	add("session cookie", cookie.Value)
	add("resume ticket", ticket.Ticket)
	add("set-up link", secret)
}

// agentCAPEM opens the key of the agents' CA as a node holds it sealed.
func agentCAPEM(t *testing.T, n *testcluster.Node) []byte {
	t.Helper()
	v, ok := n.App.Node().State().Get("pki", "agents")
	var rec struct {
		CAs []struct {
			Key string `json:"key_sealed"`
		} `json:"cas"`
	}
	if !ok || json.Unmarshal(v.Data, &rec) != nil || len(rec.CAs) != 1 {
		t.Fatalf("the CAs of agents: %v %s", ok, v.Data)
	}
	key, err := n.App.Keys().Open("pki/agents", rec.CAs[0].Key)
	if err != nil || !strings.Contains(string(key), "PRIVATE KEY") {
		t.Fatalf("the key of the agents' CA: %v", err)
	}
	return key
}

// Every form in which the search would find a secret is one in which it is found.
func TestFormsAreFound(t *testing.T) {
	secret := []byte("canary+in/a=password")
	look := newSought(t, map[string][]byte{"x": secret})
	for name, text := range map[string]string{
		"raw": "x" + string(secret), "hex": hex.EncodeToString(append([]byte("ab"), secret...)),
		"base64 0": base64.StdEncoding.EncodeToString(append(secret[:len(secret):len(secret)], " and more"...)),
		"base64 1": base64.URLEncoding.EncodeToString(append([]byte("u:12"), secret...)),
		"base64 2": base64.StdEncoding.EncodeToString(append([]byte("user:"), secret...)),
		"query":    "?p=" + url.QueryEscape(string(secret)),
	} {
		hit := false
		look.in([]byte(text), func(form) { hit = true })
		if !hit {
			t.Errorf("%s: %s is not found", name, text)
		}
	}
}
