package sender

import (
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of the back-off per node.
const (
	minBackoff    = 200 * time.Millisecond
	maxBackoff    = 15 * time.Second
	maxRetryAfter = time.Minute
	maxNodes      = 32
)

// nodeSet is the list of nodes and which of them may be tried when. The current one is kept until it fails.
type nodeSet struct {
	mu      sync.Mutex
	nodes   []*node
	current int
}

type node struct {
	url       string
	failures  int
	notBefore time.Time
}

func newNodeSet(urls []string) *nodeSet {
	s := &nodeSet{}
	s.add(urls)
	if len(s.nodes) > 1 {
		s.current = rand.IntN(len(s.nodes)) // agents spread over the nodes
	}
	return s
}

// add takes over addresses that are not known yet; it reports whether there were any.
func (s *nodeSet) add(urls []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	grown := false
	for _, u := range urls {
		u = strings.TrimRight(u, "/")
		p, err := url.Parse(u)
		if err != nil || p.Host == "" || (p.Scheme != "https" && p.Scheme != "http") || len(s.nodes) >= maxNodes {
			continue
		}
		if !slices.ContainsFunc(s.nodes, func(n *node) bool { return n.url == u }) {
			s.nodes = append(s.nodes, &node{url: u})
			grown = true
		}
	}
	return grown
}

func (s *nodeSet) urls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, len(s.nodes))
	for i, n := range s.nodes {
		out[i] = n.url
	}
	return out
}

// pick returns the node to use now, or how long to wait until one may be tried.
func (s *nodeSet) pick(now time.Time) (string, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.nodes) == 0 {
		return "", maxBackoff
	}
	wait := time.Duration(-1)
	for i := range s.nodes {
		k := (s.current + i) % len(s.nodes)
		n := s.nodes[k]
		if d := n.notBefore.Sub(now); d > 0 {
			if wait < 0 || d < wait {
				wait = d
			}
			continue
		}
		s.current = k
		return n.url, 0
	}
	return "", wait
}

// currentURL is the node in use.
func (s *nodeSet) currentURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.nodes) == 0 {
		return ""
	}
	return s.nodes[s.current].url
}

// failed puts a node off for the jittered back-off, or for as long as it asked. With all true every node is
// put off: the cluster itself asked for time.
func (s *nodeSet) failed(u string, now time.Time, retryAfter time.Duration, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.url != u && !all {
			continue
		}
		if n.url == u {
			n.failures++
		}
		back := minBackoff << min(n.failures, 10)
		back = min(back, maxBackoff)
		back = back/2 + rand.N(back/2+1)
		if retryAfter > 0 {
			retryAfter = min(retryAfter, maxRetryAfter)
			back = max(back, retryAfter+rand.N(retryAfter/4+1))
		}
		if t := now.Add(max(back, minBackoff)); t.After(n.notBefore) {
			n.notBefore = t
		}
	}
}

func (s *nodeSet) succeeded(u string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.url == u {
			n.failures, n.notBefore = 0, time.Time{}
		}
	}
}
