package syslog

import (
	"sync"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/pipeline"
)

// Bounds of the streams of one node. Names come from whoever sends, unproven: what is beyond the bounds goes into
// common streams and keeps its name as a field.
const (
	maxHosts   = 5_000
	maxStreams = 20_000
)

// streams knows the streams that lines were put into, by host and program.
type streams struct {
	mu     sync.Mutex
	hosts  map[string]struct{}
	byName map[[2]string]*lines.Stream
}

func newStreams() *streams {
	return &streams{hosts: make(map[string]struct{}), byName: make(map[[2]string]*lines.Stream)}
}

// of returns the stream of a program on a host, and what its labels do not say.
func (s *streams) of(host, app string, r *pipeline.Redactor) (st *lines.Stream, fields []wire.Label, err error) {
	host, app = lines.Valid(host, maxHost), lines.Valid(app, maxTag)
	if named, changed := r.Labels(wire.Labels{{Name: "hostname", Value: host}}); changed { // a message without a host, taken for one
		host = named[0].Value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.byName[[2]string{host, app}]; st != nil {
		return st, nil, nil
	}
	_, known := s.hosts[host]
	if !known && len(s.hosts) >= maxHosts {
		fields = append(fields, wire.Label{Name: "hostname", Value: host})
		host = "other"
	}
	if app != "" && len(s.byName) >= maxStreams {
		fields = append(fields, wire.Label{Name: "app", Value: app})
		app = ""
	}
	name := [2]string{host, app}
	if st := s.byName[name]; st != nil {
		return st, fields, nil
	}
	labels, _ := r.Labels(wire.LabelsFromMap(map[string]string{"host": host, "source": "syslog", "unit": app}))
	if st, err = lines.NewStream(wire.StreamLog, labels); err != nil {
		return nil, nil, err
	}
	s.hosts[host] = struct{}{}
	s.byName[name] = st
	return st, fields, nil
}
