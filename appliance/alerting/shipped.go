package alerting

import (
	"context"
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/triward/triward/appliance/alerting/route"
)

// shippedVersion counts the releases of the shipped rules. A file that nobody changed is replaced by a newer one.
const shippedVersion = 6

//go:embed shipped/*.yaml
var shippedFiles embed.FS

// defaultRoutes is what a new cluster begins with: alerts are shown, and nobody is told.
const defaultRoutes = `# Who is told of which alert; see docs/alerting.md.
route:
  receiver: nobody
  group_by: [alertname, severity]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 4h

# A receiver without a way to be told only shows alerts on the page. For example:
#  - name: ops
#    webhook_configs:
#      - url: https://hooks.example/triward
receivers:
  - name: nobody

# A critical alert mutes the warning of the same name on the same host.
inhibit_rules:
  - source_matchers: ['severity="critical"']
    target_matchers: ['severity="warning"']
    equal: [alertname, host, mountpoint]
`

// Shipped returns the files of rules that come with the program, by name.
func Shipped() (map[string]string, error) {
	entries, err := shippedFiles.ReadDir("shipped")
	if err != nil {
		return nil, fmt.Errorf("shipped rules: %w", err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		body, err := shippedFiles.ReadFile("shipped/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("shipped rules: %w", err)
		}
		out[strings.TrimSuffix(e.Name(), ".yaml")] = string(body)
	}
	return out, nil
}

// installShipped puts the shipped rules and the first routes in their place: what is not there, and what is of an older
// release and was never changed.
func (l *leader) installShipped(ctx context.Context) error {
	if l.shipped {
		return nil
	}
	files, err := Shipped()
	if err != nil {
		return err
	}
	b, whole := l.s.board, true
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b.mu.RLock()
		have := b.files[name]
		b.mu.RUnlock()
		rec := FileRecord{Name: name, Body: files[name], Version: 1, Origin: OriginShipped, Shipped: shippedVersion, UpdatedBy: "triward", UpdatedAt: l.now}
		var mod uint64
		if have != nil {
			if have.rec.Origin != OriginShipped || have.rec.Shipped >= shippedVersion {
				continue
			}
			mod = have.mod
			rec.Version, rec.Disabled, rec.Off, rec.Removed = have.rec.Version+1, have.rec.Disabled, have.rec.Off, have.rec.Removed
		}
		parsed, err := l.s.parse(name, []byte(rec.Body))
		if err != nil {
			return err
		}
		if parsed.LogQL && !l.s.cfg.LogQL() {
			whole = false // it comes when all nodes can read it
			continue
		}
		err = l.commit(ctx, Txn{
			Compares: []Compare{{BucketRules, name, mod}}, Ops: []Op{{Bucket: BucketRules, Key: name, Value: encode(rec)}},
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	b.mu.RLock()
	mod := b.routes.mod
	b.mu.RUnlock()
	if mod == 0 {
		if _, err := route.Parse([]byte(defaultRoutes)); err != nil {
			return err
		}
		rec := RoutesRecord{Body: defaultRoutes, Version: 1, UpdatedBy: "triward", UpdatedAt: l.now}
		err := l.commit(ctx, Txn{
			Compares: []Compare{{BucketRoutes, keyRoutes, 0}}, Ops: []Op{{Bucket: BucketRoutes, Key: keyRoutes, Value: encode(rec)}},
		})
		if err != nil {
			return fmt.Errorf("routes: %w", err)
		}
	}
	l.shipped = whole
	return nil
}
