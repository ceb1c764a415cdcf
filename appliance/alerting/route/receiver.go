package route

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/mail"
	"strings"

	"github.com/prometheus/common/model"
)

// Receiver is a name and the ways by which it is told, each for itself.
type Receiver struct {
	Name     string     `yaml:"name"`
	Webhook  []Webhook  `yaml:"webhook_configs,omitempty"`
	Email    []Email    `yaml:"email_configs,omitempty"`
	DingTalk []DingTalk `yaml:"dingtalk_configs,omitempty"`
	WeCom    []WeCom    `yaml:"wecom_configs,omitempty"`
	Feishu   []Feishu   `yaml:"feishu_configs,omitempty"`
}

// Secret is a text that is never shown and is stored sealed.
type Secret string

// SecretShown stands for a secret wherever the document is shown. Written in a new document it means the secret that is
// stored already.
const SecretShown = "<secret>"

// HTTP is how an HTTP receiver is reached.
type HTTP struct {
	Proxy         string         `yaml:"proxy_url,omitempty"`
	BasicAuth     *BasicAuth     `yaml:"basic_auth,omitempty"`
	Authorization *Authorization `yaml:"authorization,omitempty"`
	TLS           *TLS           `yaml:"tls_config,omitempty"`
}

// BasicAuth is a user name and password.
type BasicAuth struct {
	Username string `yaml:"username"`
	Password Secret `yaml:"password"`
}

// Authorization is the header of that name.
type Authorization struct {
	Type        string `yaml:"type,omitempty"` // Bearer when empty
	Credentials Secret `yaml:"credentials"`
}

// TLS is whom to believe.
type TLS struct {
	CA                 string `yaml:"ca,omitempty"` // PEM; empty: the system's
	ServerName         string `yaml:"server_name,omitempty"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify,omitempty"`
}

// Webhook sends Alertmanager's JSON, version 4.
type Webhook struct {
	URL          string `yaml:"url"`
	SendResolved *bool  `yaml:"send_resolved,omitempty"`
	MaxAlerts    int    `yaml:"max_alerts,omitempty"`
	HTTP         HTTP   `yaml:"http_config,omitempty"`
}

// Email sends by SMTP.
type Email struct {
	To           string `yaml:"to"` // addresses separated by commas
	From         string `yaml:"from"`
	Smarthost    string `yaml:"smarthost"` // host:port
	Hello        string `yaml:"hello,omitempty"`
	AuthUsername string `yaml:"auth_username,omitempty"` // empty: a relay without login
	AuthPassword Secret `yaml:"auth_password,omitempty"`
	RequireTLS   *bool  `yaml:"require_tls,omitempty"` // true when absent
	TLS          *TLS   `yaml:"tls_config,omitempty"`
	SendResolved *bool  `yaml:"send_resolved,omitempty"`
	Language     string `yaml:"language,omitempty"` // en or zh
}

// DingTalk is a robot of a DingTalk group.
type DingTalk struct {
	BaseURL      string   `yaml:"base_url,omitempty"` // https://oapi.dingtalk.com when empty
	AccessToken  Secret   `yaml:"access_token"`
	Secret       Secret   `yaml:"secret,omitempty"` // for the signature
	AtMobiles    []string `yaml:"at_mobiles,omitempty"`
	AtAll        bool     `yaml:"at_all,omitempty"`
	SendResolved *bool    `yaml:"send_resolved,omitempty"`
	Language     string   `yaml:"language,omitempty"` // zh when empty
	HTTP         HTTP     `yaml:"http_config,omitempty"`
}

// WeCom is a robot of a WeCom (WeChat Work) group.
type WeCom struct {
	BaseURL      string `yaml:"base_url,omitempty"` // https://qyapi.weixin.qq.com when empty
	Key          Secret `yaml:"key"`
	SendResolved *bool  `yaml:"send_resolved,omitempty"`
	Language     string `yaml:"language,omitempty"`
	HTTP         HTTP   `yaml:"http_config,omitempty"`
}

// Feishu is a robot of a Feishu (Lark) group.
type Feishu struct {
	BaseURL      string `yaml:"base_url,omitempty"` // https://open.feishu.cn when empty
	Token        Secret `yaml:"token"`              // the last part of the hook's address
	Secret       Secret `yaml:"secret,omitempty"`
	SendResolved *bool  `yaml:"send_resolved,omitempty"`
	Language     string `yaml:"language,omitempty"`
	HTTP         HTTP   `yaml:"http_config,omitempty"`
}

// Integration is one way of a receiver. Exactly one of the pointers is set.
type Integration struct {
	Name     string // such as webhook/0
	Resolved bool   // it wants to hear of the end of alerts
	Webhook  *Webhook
	Email    *Email
	DingTalk *DingTalk
	WeCom    *WeCom
	Feishu   *Feishu
}

func yes(b *bool) bool { return b == nil || *b }

// Integrations lists the receiver's ways.
func (r *Receiver) Integrations() []Integration {
	var out []Integration
	for i := range r.Webhook {
		out = append(out, Integration{Name: fmt.Sprintf("webhook/%d", i), Resolved: yes(r.Webhook[i].SendResolved), Webhook: &r.Webhook[i]})
	}
	for i := range r.Email {
		out = append(out, Integration{Name: fmt.Sprintf("email/%d", i), Resolved: yes(r.Email[i].SendResolved), Email: &r.Email[i]})
	}
	for i := range r.DingTalk {
		out = append(out, Integration{Name: fmt.Sprintf("dingtalk/%d", i), Resolved: yes(r.DingTalk[i].SendResolved), DingTalk: &r.DingTalk[i]})
	}
	for i := range r.WeCom {
		out = append(out, Integration{Name: fmt.Sprintf("wecom/%d", i), Resolved: yes(r.WeCom[i].SendResolved), WeCom: &r.WeCom[i]})
	}
	for i := range r.Feishu {
		out = append(out, Integration{Name: fmt.Sprintf("feishu/%d", i), Resolved: yes(r.Feishu[i].SendResolved), Feishu: &r.Feishu[i]})
	}
	return out
}

// MaxIntegrations bounds the ways of one receiver.
const MaxIntegrations = 20

func (r *Receiver) check(place string, bad *Error) {
	if n := len(r.Integrations()); n > MaxIntegrations {
		bad.add("%s: %d ways to tell it; at most %d", place, n, MaxIntegrations)
	}
	for i := range r.Webhook {
		w := &r.Webhook[i]
		at := fmt.Sprintf("%s webhook_configs[%d]", place, i)
		checkURL(at+".url", w.URL, bad, "http", "https")
		if w.MaxAlerts < 0 {
			bad.add("%s.max_alerts is negative", at)
		}
		w.HTTP.check(at+".http_config", bad)
	}
	for i := range r.Email {
		r.Email[i].check(fmt.Sprintf("%s email_configs[%d]", place, i), bad)
	}
	for i := range r.DingTalk {
		d := &r.DingTalk[i]
		at := fmt.Sprintf("%s dingtalk_configs[%d]", place, i)
		defaultURL(&d.BaseURL, "https://oapi.dingtalk.com", at, bad)
		wanted(d.AccessToken, at+".access_token", bad)
		language(&d.Language, "zh", at, bad)
		d.HTTP.check(at+".http_config", bad)
	}
	for i := range r.WeCom {
		w := &r.WeCom[i]
		at := fmt.Sprintf("%s wecom_configs[%d]", place, i)
		defaultURL(&w.BaseURL, "https://qyapi.weixin.qq.com", at, bad)
		wanted(w.Key, at+".key", bad)
		language(&w.Language, "zh", at, bad)
		w.HTTP.check(at+".http_config", bad)
	}
	for i := range r.Feishu {
		f := &r.Feishu[i]
		at := fmt.Sprintf("%s feishu_configs[%d]", place, i)
		defaultURL(&f.BaseURL, "https://open.feishu.cn", at, bad)
		wanted(f.Token, at+".token", bad)
		language(&f.Language, "zh", at, bad)
		f.HTTP.check(at+".http_config", bad)
	}
}

func defaultURL(u *string, def, at string, bad *Error) {
	if *u == "" {
		*u = def
	}
	checkURL(at+".base_url", *u, bad, "http", "https")
}

func wanted(s Secret, at string, bad *Error) {
	if s == "" {
		bad.add("%s is missing", at)
	}
	if len(s) > 1024 {
		bad.add("%s is longer than 1024 bytes", at)
	}
}

func language(l *string, def, at string, bad *Error) {
	if *l == "" {
		*l = def
	}
	if *l != "en" && *l != "zh" {
		bad.add("%s.language: %.20q; want en or zh", at, *l)
	}
}

func (h *HTTP) check(at string, bad *Error) {
	if h.Proxy != "" {
		checkURL(at+".proxy_url", h.Proxy, bad, "http", "https", "socks5")
	}
	if h.BasicAuth != nil && h.Authorization != nil {
		bad.add("%s: basic_auth and authorization exclude each other", at)
	}
	if a := h.Authorization; a != nil {
		wanted(a.Credentials, at+".authorization.credentials", bad)
		if strings.ContainsAny(a.Type, " \r\n\t") {
			bad.add("%s.authorization.type: one word is wanted", at)
		}
		if a.Type == "" {
			a.Type = "Bearer"
		}
	}
	if b := h.BasicAuth; b != nil && b.Username == "" {
		bad.add("%s.basic_auth.username is missing", at)
	}
	h.TLS.check(at+".tls_config", bad)
}

func (t *TLS) check(at string, bad *Error) {
	if t == nil || t.CA == "" {
		return
	}
	if !x509.NewCertPool().AppendCertsFromPEM([]byte(t.CA)) {
		bad.add("%s.ca holds no certificate; paste the PEM text of the CA", at)
	}
}

func (e *Email) check(at string, bad *Error) {
	if _, err := mail.ParseAddressList(e.To); err != nil {
		bad.add("%s.to: %.100q is no list of mail addresses", at, e.To)
	}
	if _, err := mail.ParseAddress(e.From); err != nil {
		bad.add("%s.from: %.100q is no mail address", at, e.From)
	}
	if host, port, err := net.SplitHostPort(e.Smarthost); err != nil || host == "" || port == "" {
		bad.add("%s.smarthost: %.100q; want host:port of the mail relay, such as relay.example:25", at, e.Smarthost)
	}
	if e.AuthUsername == "" && e.AuthPassword != "" {
		bad.add("%s.auth_password is set and auth_username is not", at)
	}
	if e.AuthUsername != "" && e.RequireTLS != nil && !*e.RequireTLS {
		bad.add("%s: a login wants require_tls, or the password goes over the wire in the clear", at)
	}
	if strings.ContainsAny(e.Hello, " \r\n\t") {
		bad.add("%s.hello: a host name is wanted", at)
	}
	language(&e.Language, "en", at, bad)
	e.TLS.check(at+".tls_config", bad)
}

// Milliseconds is a duration of the document.
func Milliseconds(d *model.Duration) int64 {
	if d == nil {
		return 0
	}
	return int64(*d) / 1e6
}
