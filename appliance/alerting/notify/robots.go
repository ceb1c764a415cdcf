package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/triward/triward/appliance/alerting/route"
)

// What the robots take, in bytes.
const (
	dingTalkBytes = 18_000
	weComBytes    = 4_000
	feishuBytes   = 18_000
)

func stars(s string) string { return "**" + s + "**" }

func sum(key, text string) string {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// dingTalk sends to a robot of a DingTalk group, signed when there is a secret.
func (s *Sender) dingTalk(ctx context.Context, d *route.DingTalk, m *Message, gate Gate) error {
	q := url.Values{"access_token": {string(d.AccessToken)}}
	if d.Secret != "" {
		at := strconv.FormatInt(s.now().UnixMilli(), 10)
		q.Set("timestamp", at)
		q.Set("sign", sum(string(d.Secret), at+"\n"+string(d.Secret)))
	}
	title := m.title(d.Language)
	text := "### " + title + "\n\n" + strings.ReplaceAll(m.body(d.Language, dingTalkBytes, stars), "\n", "  \n")
	for _, mobile := range d.AtMobiles {
		text += " @" + mobile
	}
	body := map[string]any{
		"msgtype": "markdown", "markdown": map[string]string{"title": title, "text": text},
		"at": map[string]any{"atMobiles": append([]string{}, d.AtMobiles...), "isAtAll": d.AtAll},
	}
	said, err := s.post(ctx, &d.HTTP, strings.TrimRight(d.BaseURL, "/")+"/robot/send?"+q.Encode(), m, body, gate)
	return robotAnswer(said, err)
}

// weCom sends to a robot of a WeCom group.
func (s *Sender) weCom(ctx context.Context, w *route.WeCom, m *Message, gate Gate) error {
	text := stars(m.title(w.Language)) + "\n\n" + m.body(w.Language, weComBytes-300, stars)
	body := map[string]any{"msgtype": "markdown", "markdown": map[string]string{"content": text}}
	q := url.Values{"key": {string(w.Key)}}
	said, err := s.post(ctx, &w.HTTP, strings.TrimRight(w.BaseURL, "/")+"/cgi-bin/webhook/send?"+q.Encode(), m, body, gate)
	return robotAnswer(said, err)
}

// feishu sends to a robot of a Feishu group, signed when there is a secret.
func (s *Sender) feishu(ctx context.Context, f *route.Feishu, m *Message, gate Gate) error {
	text := m.title(f.Language) + "\n\n" + m.body(f.Language, feishuBytes, func(t string) string { return t })
	body := map[string]any{"msg_type": "text", "content": map[string]string{"text": text}}
	if f.Secret != "" {
		at := strconv.FormatInt(s.now().Unix(), 10)
		body["timestamp"], body["sign"] = at, sum(at+"\n"+string(f.Secret), "")
	}
	said, err := s.post(ctx, &f.HTTP, strings.TrimRight(f.BaseURL, "/")+"/open-apis/bot/v2/hook/"+url.PathEscape(string(f.Token)), m, body, gate)
	return robotAnswer(said, err)
}

// robotAnswer looks into an answer: robots refuse with status 200 and a code.
func robotAnswer(said []byte, err error) error {
	if err != nil {
		return err
	}
	var a struct {
		ErrCode *int   `json:"errcode"`
		ErrMsg  string `json:"errmsg"`
		Code    *int   `json:"code"`
		Msg     string `json:"msg"`
	}
	if json.Unmarshal(said, &a) != nil {
		return fmt.Errorf("the receiver's answer is not what such a robot says: %s", brief(said))
	}
	for _, c := range []struct {
		code *int
		msg  string
	}{{a.ErrCode, a.ErrMsg}, {a.Code, a.Msg}} {
		if c.code != nil && *c.code != 0 {
			return fmt.Errorf("the receiver refused it: code %d %s", *c.code, brief([]byte(c.msg)))
		}
	}
	return nil
}
