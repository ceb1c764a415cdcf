package promapi

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/notifications"

	"github.com/triward/triward/tsdb"
)

// nothing stands for what Triward has no counterpart of in this API: the library calls these without looking
// whether they are there.
type nothing struct{}

func (nothing) ScrapePools() []string                      { return []string{} }
func (nothing) TargetsActive() map[string][]*scrape.Target { return map[string][]*scrape.Target{} }
func (nothing) TargetsDropped() map[string][]*scrape.Target {
	return map[string][]*scrape.Target{}
}
func (nothing) TargetsDroppedCounts() map[string]int { return map[string]int{} }
func (nothing) ScrapePoolConfig(name string) (*config.ScrapeConfig, error) {
	return nil, fmt.Errorf("no scrape pool %q", name)
}
func (nothing) Alertmanagers() []*url.URL            { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL     { return nil }
func (nothing) RuleGroups() []*rules.Group           { return nil }
func (nothing) AlertingRules() []*rules.AlertingRule { return nil }

func (nothing) notifications() []notifications.Notification { return nil }
func (nothing) subscribe() (<-chan notifications.Notification, func(), bool) {
	return nil, func() {}, false
}

var errNoAdministration = errors.New("the store is not administered by this API")

// admin gives the library the figures of the store and nothing to change it with.
type admin struct{ store *tsdb.Store }

func (a admin) CleanTombstones() error { return errNoAdministration }
func (a admin) Delete(context.Context, int64, int64, ...*labels.Matcher) error {
	return errNoAdministration
}
func (a admin) Snapshot(string, bool) error { return errNoAdministration }
func (a admin) Stats(by string, limit int) (*promtsdb.Stats, error) {
	return a.store.Stats(by, limit)
}

func (a admin) WALReplayStatus() (promtsdb.WALReplayStatus, error) {
	return promtsdb.WALReplayStatus{}, nil
}
func (a admin) BlockMetas() ([]promtsdb.BlockMeta, error) { return a.store.BlockMetas() }
