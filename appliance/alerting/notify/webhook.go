package notify

import (
	"context"
	"maps"
	"time"

	"github.com/triward/triward/appliance/alerting/route"
)

// webhookBody is Alertmanager's JSON, version 4. The dedup key stands in an annotation that all alerts share.
type webhookBody struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []webhookAlert    `json:"alerts"`
}

type webhookAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// Annotations that every alert of a webhook message has beside its own.
const (
	KeyAnnotation        = "triward_dedup_key"
	EscalationAnnotation = "triward_escalation"
	AssignedAnnotation   = "triward_assigned_to"
)

func (s *Sender) webhook(ctx context.Context, w *route.Webhook, m *Message, gate Gate) error {
	_, err := s.post(ctx, &w.HTTP, w.URL, m, webhookJSON(m, w.MaxAlerts), gate)
	return err
}

func webhookJSON(m *Message, limit int) *webhookBody {
	b := &webhookBody{
		Version: "4", GroupKey: m.GroupKey, TruncatedAlerts: m.Truncated, Status: m.Status(), Receiver: m.Receiver,
		GroupLabels: orEmpty(m.GroupLabels), ExternalURL: m.ExternalURL, Alerts: []webhookAlert{},
	}
	for i := range m.Alerts {
		a := &m.Alerts[i]
		annotations := maps.Clone(orEmpty(a.Annotations))
		annotations[KeyAnnotation] = m.Key
		if m.Escalation {
			annotations[EscalationAnnotation] = "true"
		}
		if a.AssignedTo != "" {
			annotations[AssignedAnnotation] = a.AssignedTo
		}
		if i == 0 {
			b.CommonLabels, b.CommonAnnotations = maps.Clone(orEmpty(a.Labels)), maps.Clone(annotations)
		}
		shared(b.CommonLabels, a.Labels)
		shared(b.CommonAnnotations, annotations)
		if limit > 0 && i >= limit {
			b.TruncatedAlerts++
			continue
		}
		out := webhookAlert{
			Status: "resolved", Labels: orEmpty(a.Labels), Annotations: annotations, StartsAt: time.UnixMilli(a.StartsAt).UTC(),
			GeneratorURL: a.URL, Fingerprint: a.Fingerprint,
		}
		if a.Firing {
			out.Status = "firing"
		} else {
			out.EndsAt = time.UnixMilli(a.EndsAt).UTC()
		}
		b.Alerts = append(b.Alerts, out)
	}
	b.CommonLabels, b.CommonAnnotations = orEmpty(b.CommonLabels), orEmpty(b.CommonAnnotations)
	return b
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// shared leaves in common what m has too.
func shared(common, m map[string]string) {
	for k, v := range common {
		if got, ok := m[k]; !ok || got != v {
			delete(common, k)
		}
	}
}
