package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// checked returns a rule with its selector as it is kept.
func checkedSelector(r retention.SelectorRule) (retention.SelectorRule, *wire.Picker, error) {
	p, err := r.Picker()
	if err != nil {
		return r, nil, problem.Wrap(http.StatusBadRequest, err).WithHint(`a selector looks like {unit="nginx", host=~"web.*"}; its labels are those of streams`)
	}
	r.Select = p.Selector.String()
	return r, p, nil
}

// SetSelector implements api.Selectors.
func (k *retentionKeeper) SetSelector(ctx context.Context, r retention.SelectorRule, everything bool, by auth.AuditRecord) error {
	r, p, err := checkedSelector(r)
	if err != nil {
		return err
	}
	if format := k.app.state.format(); format < selectorFormat {
		return problem.New(http.StatusConflict, fmt.Sprintf("the cluster's format is %d, rules for single streams need %d", format, selectorFormat)).
			WithHint("upgrade all nodes, then run `triward upgrade finalize`")
	}
	if retention.Everything(p) && !everything {
		return problem.New(http.StatusBadRequest, fmt.Sprintf("the selector %s picks every stream", r.Select)).
			WithHint(`if it is meant, say "everything": true (--yes); the age of all lines is what --logs-age is for`)
	}
	return k.changeSelectors(ctx, by, "retention.select", func(rec *retention.SelectorRecord) (any, error) {
		set := retention.SelectorSet{SelectorRule: r, By: by.Actor, At: k.app.state.LogTime()}
		detail := map[string]any{"to": r}
		if i := rec.Find(r.Kind, r.Select); i >= 0 {
			detail["from"] = rec.Rules[i].SelectorRule
			rec.Rules[i] = set
			return detail, nil
		}
		if len(rec.Rules) >= retention.MaxSelectors {
			return nil, problem.New(http.StatusConflict, fmt.Sprintf("there are %d rules, which is the most", retention.MaxSelectors)).
				WithHint("remove one by `triward retention unselect`, or pick several streams by one: {unit=~\"a|b\"}")
		}
		rec.Rules = append(rec.Rules, set)
		return detail, nil
	})
}

// RemoveSelector implements api.Selectors.
func (k *retentionKeeper) RemoveSelector(ctx context.Context, kind, sel string, by auth.AuditRecord) error {
	if s, err := wire.ParseSelector(sel); err == nil { // one that is none is looked for as it stands
		sel = s.String()
	}
	return k.changeSelectors(ctx, by, "retention.unselect", func(rec *retention.SelectorRecord) (any, error) {
		i := rec.Find(kind, sel)
		if i < 0 {
			return nil, problem.New(http.StatusNotFound, fmt.Sprintf("there is no rule for %s %.200s", kind, sel)).WithHint("`triward retention show` lists them")
		}
		was := rec.Rules[i].SelectorRule
		rec.Rules = slices.Delete(rec.Rules, i, i+1)
		return map[string]any{"from": was}, nil
	})
}

// changeSelectors replaces the rules by what change makes of them.
func (k *retentionKeeper) changeSelectors(ctx context.Context, by auth.AuditRecord, action string, change func(*retention.SelectorRecord) (detail any, err error)) error {
	rec, index, err := k.app.selectorRules()
	if err != nil {
		return problem.Wrap(http.StatusConflict, err).WithHint("a newer version set it: upgrade this node")
	}
	detail, err := change(&rec)
	if err != nil {
		return err
	}
	by.Action = action
	if by.Detail, err = json.Marshal(detail); err != nil {
		return fmt.Errorf("encode the audit record: %w", err)
	}
	op := command.Op{Bucket: retention.Bucket, Key: retention.KeySelectors, Value: rec.Encode(), Delete: len(rec.Rules) == 0}
	if op.Delete {
		op.Value = nil
	}
	_, err = k.app.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: op.Bucket, Key: op.Key, ModIndex: index}},
		Ops:      []command.Op{op}, Audit: []command.AuditRecord{command.AuditRecord(by)},
	})
	if errors.Is(err, auth.ErrConflict) {
		return problem.New(http.StatusConflict, "the rules were changed by somebody else meanwhile").WithHint("repeat it")
	}
	return err
}

// PreviewSelector implements api.Selectors.
func (k *retentionKeeper) PreviewSelector(ctx context.Context, r retention.SelectorRule) (api.SelectorPreview, error) {
	r, p, err := checkedSelector(r)
	if err != nil {
		return api.SelectorPreview{}, err
	}
	st := k.app.state.wait()
	out := api.SelectorPreview{Select: r.Select, Before: retention.SelectorFloor(st.LogTime(), r.AgeMs)}
	_, sums := k.app.node.Digest()
	for _, d := range sums {
		if d.Kind != r.KindOf() || (d.Day+1)*dayMs > out.Before || d.Count == 0 {
			continue
		}
		out.Total += int64(d.Count)
		n, err := k.app.logs.Picked(ctx, logstore.KindDay{Kind: streamKind(d.Kind), Day: d.Day}, []*wire.Picker{p})
		if err != nil {
			return out, err
		}
		if n.Lines == 0 {
			continue
		}
		if out.Oldest == 0 {
			out.Oldest = d.Day * dayMs
		}
		out.Days++
		out.Lines, out.Bytes, out.Streams = out.Lines+n.Lines, out.Bytes+n.Bytes, max(out.Streams, n.Streams)
	}
	out.Everything = retention.Everything(p) || out.Total > 0 && out.Lines >= out.Total
	return out, nil
}

// selectors lists the rules and what was cut by them and by those that are not there any more.
func (k *retentionKeeper) selectors() []api.RetentionSelector {
	out := []api.RetentionSelector{}
	rec, _, _ := k.app.selectorRules() // the keeper tells of rules that cannot be read
	for i := range rec.Rules {
		r := &rec.Rules[i]
		out = append(out, api.RetentionSelector{SelectorRule: r.SelectorRule, By: r.By, At: r.At})
	}
	k.app.state.Scan(command.BucketSelectorCuts, "", func(key string, v meta.Value) bool {
		kind, day, err := command.ParseCutKey(key)
		if err != nil {
			return true
		}
		c, err := command.DecodeCutRecord(v.Data)
		if err != nil {
			return true
		}
		for _, cut := range c.Cuts {
			sel := cut.Selector.String()
			i := slices.IndexFunc(out, func(s api.RetentionSelector) bool { return s.Kind == kind.String() && s.Select == sel })
			if i < 0 {
				i = len(out)
				out = append(out, api.RetentionSelector{SelectorRule: retention.SelectorRule{Kind: kind.String(), Select: sel}})
			}
			out[i].Before = max(out[i].Before, (day+1)*dayMs)
			out[i].Lines += cut.Lines
			out[i].Days++
			out[i].CutAt = max(out[i].CutAt, cut.At)
		}
		return true
	})
	slices.SortStableFunc(out, func(a, b api.RetentionSelector) int {
		if c := strings.Compare(b.Kind, a.Kind); c != 0 { // logs first
			return c
		}
		return strings.Compare(a.Select, b.Select)
	})
	return out
}
