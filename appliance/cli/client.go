package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/pki"
)

// Context is what the command line remembers of the cluster it talks to, in one file of the user.
type Context struct {
	Token string        `json:"token"`
	CA    string        `json:"ca,omitempty"` // PEM file
	Nodes []ContextNode `json:"nodes"`
	PID   int           `json:"pid,omitempty"` // of the `triward dev` that wrote it
}

// ContextNode is a node of the cluster.
type ContextNode struct {
	ID  string `json:"id"`
	URL string `json:"url"`
}

// contextPath is where the context lies: $XDG_STATE_HOME/triward/context.json, or below ~/.local/state.
func contextPath() (string, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the user's directory: %w", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "triward", "context.json"), nil
}

func readContext() (Context, error) {
	var c Context
	path, err := contextPath()
	if err != nil {
		return c, nil // nobody's: there is no context
	}
	body, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	if err != nil {
		return c, fmt.Errorf("read context %s: %w", path, err)
	}
	return c, nil
}

func (c *Context) write() error {
	path, err := contextPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write context: %w", err)
	}
	body, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("write context: %w", err)
	}
	return pki.WriteSecret(path, append(body, '\n'))
}

// removeContext takes the context away that the process pid wrote, and no other.
func removeContext(pid int) error {
	c, err := readContext()
	if err != nil || c.PID != pid {
		return err
	}
	path, err := contextPath()
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// target are the flags that say which cluster and node to ask.
type target struct {
	addr, node, ca, token string
	timeout               time.Duration
}

func (t *target) flags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&t.addr, "addr", os.Getenv("TRIWARD_ADDR"), "address of a node, https://host:8443 (TRIWARD_ADDR)")
	f.StringVar(&t.node, "node", "", "ask this node of the cluster last started here: its id or 1, 2, 3")
	f.StringVar(&t.ca, "ca", os.Getenv("TRIWARD_CA"), "PEM file of the cluster's CA (TRIWARD_CA)")
	f.StringVar(&t.token, "token", os.Getenv("TRIWARD_TOKEN"), "API token; better in the environment (TRIWARD_TOKEN)")
	f.Lookup("token").DefValue = "" // the help shows defaults, and must not show a secret
	f.DurationVar(&t.timeout, "timeout", 30*time.Second, "give up after this time")
}

// client asks one cluster over HTTP, the next node when one cannot be reached.
type client struct {
	http    *http.Client
	token   string
	cookie  *http.Cookie // of a session, instead of a token
	urls    []string
	timeout time.Duration
	// index is how far the log was at the newest answer: what is read next shows at least that, whichever node answers.
	index uint64
	// answered is the node that gave the newest answer in place of the one that was asked, "" for none.
	answered string
}

// known is the cluster that the flags mean, as far as this machine knows it: the one that `triward dev` started here
// last, else that of the node which runs here. Its CA and token are for its own addresses and for no other.
func (t *target) known() (Context, error) {
	saved, err := readContext()
	if err != nil || t.node != "" || t.addr == "" && len(saved.Nodes) > 0 || t.addr != "" && saved.knows(t.addr) {
		return saved, err
	}
	local, err := localNode(configPath())
	if t.addr != "" && !local.knows(t.addr) {
		return Context{}, nil // whatever the node here is, it is not asked
	}
	return local, err
}

// urls says where the cluster is asked: one node when the flags name it, else all that are known.
func (t *target) urls(known *Context) ([]string, error) {
	switch {
	case t.addr != "":
		return []string{t.addr}, nil
	case t.node != "":
		u, err := known.find(t.node)
		return []string{u}, err
	case len(known.Nodes) == 0:
		return []string{"https://localhost:8443"}, nil
	}
	var all []string
	for _, n := range known.Nodes {
		all = append(all, n.URL)
	}
	return all, nil
}

// normalize writes --addr as the addresses that are known are written.
func (t *target) normalize() error {
	if t.addr == "" {
		return nil
	}
	if t.node != "" {
		return errors.New("--addr and --node exclude each other")
	}
	addr := t.addr
	if !strings.Contains(addr, "://") {
		addr = "https://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("--addr %q: want https://host:port", t.addr)
	}
	t.addr = strings.TrimRight(addr, "/")
	return nil
}

func (t *target) client() (*client, error) {
	if err := t.normalize(); err != nil {
		return nil, err
	}
	known, err := t.known()
	if err != nil {
		return nil, err
	}
	return t.clientOf(&known)
}

// clientOf asks the cluster that known describes, as far as the flags say nothing else.
func (t *target) clientOf(known *Context) (*client, error) {
	c := &client{token: t.token, timeout: t.timeout}
	var err error
	if c.urls, err = t.urls(known); err != nil {
		return nil, err
	}
	if c.token == "" {
		c.token = known.Token
	}
	ca := t.ca
	if ca == "" {
		ca = known.CA
	}
	tlsConf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read the cluster's CA: %w", err)
		}
		tlsConf.RootCAs = x509.NewCertPool()
		if !tlsConf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", ca)
		}
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: tlsConf, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func (c *Context) find(node string) (string, error) {
	var ids []string
	for i, n := range c.Nodes {
		if n.ID == node || strconv.Itoa(i+1) == node {
			return n.URL, nil
		}
		ids = append(ids, n.ID)
	}
	return "", fmt.Errorf("--node %q: the cluster last started here has %s", node, strings.Join(ids, ", "))
}

func (c *Context) knows(u string) bool {
	for _, n := range c.Nodes {
		if strings.EqualFold(n.URL, u) {
			return true
		}
	}
	return false
}

// apiError is an answer of the cluster that is no success.
type apiError struct {
	Status int
	Title  string    `json:"title"`
	Detail string    `json:"detail"`
	Hint   string    `json:"hint"`
	Code   string    `json:"code"`
	Pos    *int      `json:"pos"`
	Gap    *queueGap `json:"gap"`    // of a consumer of the queue that retention has overtaken
	Silent []string  `json:"silent"` // members that may still hold it
	// The form of Prometheus' own API.
	ErrorType string `json:"errorType"`
	ErrorText string `json:"error"`

	query string // that was asked, which Pos is a place in
}

// Error returns what the cluster said.
func (e *apiError) Error() string {
	text := e.Detail
	for _, other := range []string{e.ErrorText, e.Title, http.StatusText(e.Status)} {
		if text == "" {
			text = other
		}
	}
	if e.Pos != nil && *e.Pos >= 0 {
		text += fmt.Sprintf(" (at byte %d)", *e.Pos)
	}
	return fmt.Sprintf("%s (%d)", text, e.Status)
}

// codeNoQuorum is the code of a problem of a cluster that cannot decide anything, of which a node that is only stopping
// or being installed knows nothing.
const codeNoQuorum = "no_quorum"

func (e *apiError) noQuorum() bool { return e.Code == codeNoQuorum }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 256 << 20

// Headers of the HTTP API.
const (
	indexHeader = "X-Triward-Index"
	nodeHeader  = "X-Triward-Node" // names the node that answered in place of the one that was asked
)

// fresh are the routes that take min_index. The state of the cluster and of the queue are asked when nodes lag, and do not wait.
var fresh = regexp.MustCompile(`^/((loki/)?api/v1/|v1/(hosts|agents|logs|tokens|users|sessions|audit|retention|queue/consumers|queue/peek)(/|$))`)

// get asks path with the query values and decodes the answer into v.
func (c *client) get(ctx context.Context, path string, q url.Values, v any) error {
	if c.index > 0 && fresh.MatchString(path) {
		asked := maps.Clone(q)
		if asked == nil {
			asked = url.Values{}
		}
		asked.Set("min_index", strconv.FormatUint(c.index, 10))
		q = asked
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return c.call(ctx, http.MethodGet, path, nil, v)
}

// post sends body as JSON and decodes the answer into v, which may be nil.
func (c *client) post(ctx context.Context, path string, body, v any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.call(ctx, http.MethodPost, path, encoded, v)
}

// put is post with the method PUT.
func (c *client) put(ctx context.Context, path string, body, v any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.call(ctx, http.MethodPut, path, encoded, v)
}

// show is get that also prints the answer as it came when JSON is wanted; shown is true then.
func (c *client) show(ctx context.Context, s streams, form *outputForm, path string, q url.Values, v any) (shown bool, err error) {
	var raw json.RawMessage
	if err := c.get(ctx, path, q, &raw); err != nil {
		return false, err
	}
	return form.show(s, path, raw, v)
}

// showPost is show for what post sends.
func (c *client) showPost(ctx context.Context, s streams, form *outputForm, path string, body, v any) (shown bool, err error) {
	var raw json.RawMessage
	if err := c.post(ctx, path, body, &raw); err != nil {
		return false, err
	}
	return form.show(s, path, raw, v)
}

func (f *outputForm) show(s streams, path string, raw json.RawMessage, v any) (shown bool, err error) {
	if err := json.Unmarshal(raw, v); err != nil {
		return false, fmt.Errorf("answer of %s: %w", path, err)
	}
	if f.json() {
		return true, writeJSON(s.out, raw)
	}
	return false, nil
}

func (c *client) call(ctx context.Context, method, path string, body []byte, v any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.reach(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if index, err := strconv.ParseUint(resp.Header.Get(indexHeader), 10, 64); err == nil {
		c.index = max(c.index, index)
	}
	c.answered = resp.Header.Get(nodeHeader)
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", resp.Request.URL.Host, err)
	}
	if len(answer) > maxAnswer {
		return fmt.Errorf("the answer is longer than %d bytes; ask for less", maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return newAPIError(resp, answer)
	}
	if v == nil {
		return nil
	}
	if raw, ok := v.(*json.RawMessage); ok {
		*raw = answer
		return nil
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return fmt.Errorf("answer of %s%s is not what this program expects: %w", resp.Request.URL.Host, path, err)
	}
	return nil
}

func newAPIError(resp *http.Response, answer []byte) error {
	e := &apiError{Status: resp.StatusCode}
	// An answer of something else than a node has its status alone; Loki's API answers in plain text.
	if err := json.Unmarshal(answer, e); err != nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		e.Detail = printable(strings.TrimSpace(string(answer[:min(len(answer), 2000)])))
	}
	e.Status, e.query = resp.StatusCode, resp.Request.URL.Query().Get("query")
	if e.Status == http.StatusUnauthorized && e.Hint == "" {
		e.Hint = "set TRIWARD_TOKEN to an API token of the cluster, or run this on a node as root: it finds the node's own"
	}
	return e
}

// reach sends the request to the first node that can be reached. Only what was not sent is sent to another, and what only
// reads when the node cannot serve it now: another may be further, or on the side of the majority.
func (c *client) reach(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	var errs []error
	var refused *http.Response
	for i, base := range c.urls {
		resp, err := c.send(ctx, method, base+path, body)
		if err == nil {
			if method != http.MethodGet || resp.StatusCode != http.StatusServiceUnavailable || i == len(c.urls)-1 {
				return resp, nil
			}
			if err = keep(resp); err == nil {
				refused = resp
				continue
			}
		}
		errs = append(errs, err)
		if op, ok := errors.AsType[*net.OpError](err); ctx.Err() != nil || method != http.MethodGet && (!ok || op.Op != "dial") {
			break
		}
	}
	if refused != nil {
		return refused, nil
	}
	return nil, fmt.Errorf("no node can be reached: %w", errors.Join(errs...))
}

// keep reads the answer to its end, so that it can be looked at when the connection is gone.
func keep(resp *http.Response) error {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return err
}

func (c *client) send(ctx context.Context, method, url string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("User-Agent", "triward/"+Version())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.cookie != nil {
		req.AddCookie(c.cookie)
	}
	return c.http.Do(req)
}

// login opens a session and returns its cookie.
func (c *client) login(ctx context.Context, user, password string) (*http.Cookie, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	body, err := json.Marshal(map[string]string{"user": user, "password": password})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	resp, err := c.reach(ctx, http.MethodPost, "/v1/login", body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, newAPIError(resp, answer)
	}
	for _, k := range resp.Cookies() {
		return k, nil
	}
	return nil, errors.New("the node gave no cookie")
}
